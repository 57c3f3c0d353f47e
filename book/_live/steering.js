// Rewards ⟨b, x⟩ and the laws that they ask for, as fmtutorial.rewards and fmtutorial.steering.
// Chapter 11.

import { observe } from "./exact.js";

/** The law p(x) exp⟨b, x⟩ / Z of a mixture p: each component moves by its variance times b. */
export function tilted({ weights, means, variances }, linear) {
  const square = linear[0] ** 2 + linear[1] ** 2;
  const logs = Float64Array.from(weights, (weight, k) => {
    const along = linear[0] * means[2 * k] + linear[1] * means[2 * k + 1];
    return Math.log(weight) + along + (variances[k] * square) / 2;
  });
  const most = logs.reduce((a, b) => Math.max(a, b));
  const masses = logs.map((value) => Math.exp(value - most));
  const total = masses.reduce((a, b) => a + b);
  return {
    weights: masses.map((mass) => mass / total),
    means: means.map((mean, i) => mean + variances[i >> 1] * linear[i % 2]),
    variances,
  };
}

/**
 * Steering by a guess: the field v + λ* ∇r(x̂₁), where x̂₁ is the posterior mean of an exact field.
 * Its derivative is α/σ² times the posterior covariance, so λ* ∇r(x̂₁) = (Δ/σ) Cov(x₁ | x) b.
 */
export function guessed(field, linear) {
  const { schedule, target } = field;
  return (x, t) => {
    const [alpha, sigma] = [schedule.alpha(t), schedule.sigma(t)];
    const delta = schedule.alphaDot(t) * sigma - alpha * schedule.sigmaDot(t);
    const out = Float64Array.from(field.velocity(x, t));
    for (let i = 0; i < x.length; i += 2) {
      const { shares, totals } = observe(target, x[i], x[i + 1], alpha, sigma);
      const mean = [0, 0];
      const means = totals.map((total, k) => (alpha * target.variances[k]) / total);
      const ends = [0, 1].map((d) =>
        means.map((gain, k) => {
          const m = target.means[2 * k + d];
          const end = m + gain * (x[i + d] - alpha * m);
          mean[d] += shares[k] * end;
          return end;
        }),
      );
      shares.forEach((share, k) => {
        const off = [ends[0][k] - mean[0], ends[1][k] - mean[1]];
        const along = off[0] * linear[0] + off[1] * linear[1];
        const within = (target.variances[k] * sigma * sigma) / totals[k];
        for (let d = 0; d < 2; d++) {
          out[i + d] += (delta / sigma) * share * (within * linear[d] + off[d] * along);
        }
      });
    }
    return out;
  };
}

/** n standard normal points, spread evenly on a spiral: the means over them are nearly exact. */
export function spiral(n) {
  const golden = Math.PI * (3 - Math.sqrt(5));
  return Float64Array.from({ length: 2 * n }, (_, i) => {
    const k = i >> 1;
    const radius = Math.sqrt(-2 * Math.log(1 - (k + 0.5) / n));
    return radius * (i % 2 ? Math.sin(golden * k) : Math.cos(golden * k));
  });
}

/**
 * The share of weighted points that is nearest to each component of a target, and the share that is
 * farther than `far` standard deviations from all of them.
 */
export function sharesNear(x, { means, variances }, far = 3, weight = () => 1) {
  const near = new Float64Array(variances.length);
  let [total, away] = [0, 0];
  for (let i = 0; i < x.length; i += 2) {
    let [best, least, free] = [0, Infinity, true];
    for (let k = 0; k < near.length; k++) {
      const square = (x[i] - means[2 * k]) ** 2 + (x[i + 1] - means[2 * k + 1]) ** 2;
      if (square < least) [best, least] = [k, square];
      free &&= square > far * far * variances[k];
    }
    const mass = weight(i / 2);
    total += mass;
    near[best] += mass;
    if (free) away += mass;
  }
  return { near: near.map((mass) => mass / total), away: away / total };
}
