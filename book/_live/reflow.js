// Flows of mixtures on the line and the straight lines between their ends. Chapter 6.
//
// On the line solutions keep their order, so that a particle keeps the share of the others below
// it. No solver and no training is needed: flow maps, mean velocities and the field of a second
// round of ReFlow are exact. A target is that of exact.js, less the second coordinate.

const FAR = 8; // standard deviations; beyond them Φ is 0 or 1 in double precision

/** Φ(z), by Taylor's series of the integral of the density; after Marsaglia 2004. */
export function normalCdf(z) {
  if (Math.abs(z) > FAR + 0.3) return z > 0 ? 1 : 0;
  let [term, sum, before] = [z, z, NaN];
  for (let i = 3; sum !== before && i < 500; i += 2) {
    before = sum;
    term *= (z * z) / i;
    sum += term;
  }
  return 0.5 + (sum * Math.exp((-z * z) / 2)) / Math.sqrt(2 * Math.PI);
}

/** The share of particles below x at time t, and their density there; the linear schedule. */
export function observeLine({ weights, means, variances }, x, t) {
  let [below, density] = [0, 0];
  for (let k = 0; k < weights.length; k++) {
    const std = Math.sqrt((1 - t) ** 2 + t * t * variances[k]);
    const z = (x - t * means[k]) / std;
    below += weights[k] * normalCdf(z);
    density += (weights[k] * Math.exp((-z * z) / 2)) / (std * Math.sqrt(2 * Math.PI));
  }
  return { below, density };
}

/** Where an increasing function, x → [value, slope], is 0: Newton's step if it is short, or half. */
function root(f, low, high) {
  let x = (low + high) / 2;
  let step = high - low;
  for (let i = 0; i < 200; i++) {
    const [value, slope] = f(x);
    if (value > 0) high = x;
    else low = x;
    let next = x - value / slope;
    const short = Math.abs(next - x) < step / 2 && next >= low && next <= high;
    if (!short) next = (low + high) / 2;
    step = Math.abs(next - x);
    x = next;
    if (step < 1e-15 * (1 + Math.abs(x))) break;
  }
  return x;
}

/** The place at time t with a share of the particles below it. */
export function quantile(target, share, t) {
  const far = FAR * Math.sqrt((1 - t) ** 2 + t * t * Math.max(...target.variances));
  return root(
    (x) => {
      const { below, density } = observeLine(target, x, t);
      return [below - share, density];
    },
    t * Math.min(...target.means) - far,
    t * Math.max(...target.means) + far,
  );
}

/** φ_{s,t}(x): where the flow takes a particle from time s to time t. */
export function flowMap(target, x, s, t) {
  return quantile(target, observeLine(target, x, s).below, t);
}

/** ū_{s,t}(x) = (φ_{s,t}(x) − x) / (t − s), for s < t. */
export function meanVelocity(target, x, s, t) {
  return (flowMap(target, x, s, t) - x) / (t - s);
}

/** The velocity at (x, t) of the lines between noise and where the flow takes it. */
export function straightVelocity(target, x, t) {
  // the line is looked for by its end: the flow may be steep, and its inverse is not
  const end = root(
    (y) => {
      const start = flowMap(target, y, 1, 0);
      const slope = observeLine(target, y, 1).density / observeLine(target, start, 0).density;
      return [(1 - t) * start + t * y - x, (1 - t) * slope + t];
    },
    flowMap(target, -FAR, 0, 1),
    flowMap(target, FAR, 0, 1),
  );
  return end - flowMap(target, end, 1, 0);
}

/** Pairs of lines from x0 to x1 that change sides on the way. */
export function crossings(x0, x1) {
  let count = 0;
  for (let i = 0; i < x0.length; i++) {
    for (let j = 0; j < i; j++) if ((x0[i] - x0[j]) * (x1[i] - x1[j]) < 0) count++;
  }
  return count;
}
