// Classifier-free guidance, as fmtutorial.guidance.guided. Chapter 8.

/** The field (1 − s) v + s v_label, from the field of all data and that of a label. */
export function guided(free, labelled, scale) {
  return (x, t) => {
    const all = free(x, t);
    const one = labelled(x, t);
    return all.map((value, i) => value + scale * (one[i] - value));
  };
}

/** log p(x) p(label | x)^s up to a constant, at points: (1 − s) log p(x) + s log p(x | label). */
export function sharpened(free, labelled, scale) {
  return free.map((value, i) => (1 - scale) * value + scale * labelled[i]);
}
