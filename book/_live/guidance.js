// Classifier-free guidance, as fmtutorial.guidance.guided. Chapters 8 and 11.

/**
 * The field (1 − s) v + s v_label, from the field of all data and that of a label; before and after
 * the interval of t on which s acts, that of the label.
 */
export function guided(free, labelled, scale, [from, until] = [0, 1]) {
  return (x, t) => {
    const one = labelled(x, t);
    if (scale === 1 || t < from || t > until) return one;
    const all = free(x, t);
    return all.map((value, i) => value + scale * (one[i] - value));
  };
}

/** log p(x) p(label | x)^s up to a constant, at points: (1 − s) log p(x) + s log p(x | label). */
export function sharpened(free, labelled, scale) {
  return free.map((value, i) => (1 - scale) * value + scale * labelled[i]);
}

/** Mean and spread (root mean square distance from the mean) of weighted points. */
export function summary(x, weight = () => 1) {
  let [total, meanX, meanY, square] = [0, 0, 0, 0];
  for (let i = 0; i < x.length; i += 2) {
    const w = weight(i / 2);
    total += w;
    meanX += w * x[i];
    meanY += w * x[i + 1];
    square += w * (x[i] ** 2 + x[i + 1] ** 2);
  }
  [meanX, meanY] = [meanX / total, meanY / total];
  return { mean: [meanX, meanY], spread: Math.sqrt(square / total - meanX ** 2 - meanY ** 2) };
}
