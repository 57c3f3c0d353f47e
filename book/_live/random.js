// Random numbers with a seed, so that a figure can show the same noise again.

/** A generator of uniform numbers in [0, 1): sfc32, after Chris Doty-Humphrey's PractRand. */
export function generator(seed) {
  let [a, b, c, counter] = [seed | 0, 0x9e3779b9 | 0, 0x243f6a88 | 0, 1];
  const next = () => {
    const sum = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (c << 21) | (c >>> 11);
    c = (c + sum) | 0;
    return (sum >>> 0) / 4294967296;
  };
  for (let i = 0; i < 15; i++) next();
  return next;
}

/** n standard normal numbers, by Box and Muller's method. */
export function normal(uniform, n) {
  const out = new Float64Array(n);
  for (let i = 0; i < n; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    const angle = 2 * Math.PI * uniform();
    out[i] = radius * Math.cos(angle);
    if (i + 1 < n) out[i + 1] = radius * Math.sin(angle);
  }
  return out;
}

/** n points of a target {weights, means, variances}. */
export function sample(target, uniform, n) {
  const out = normal(uniform, 2 * n);
  for (let i = 0; i < n; i++) {
    let k = 0;
    for (let left = uniform(); k + 1 < target.weights.length; k++) {
      left -= target.weights[k];
      if (left < 0) break;
    }
    const std = Math.sqrt(target.variances[k]);
    out[2 * i] = target.means[2 * k] + std * out[2 * i];
    out[2 * i + 1] = target.means[2 * k + 1] + std * out[2 * i + 1];
  }
  return out;
}
