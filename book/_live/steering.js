// Rewards ⟨b, x⟩ and the laws that they ask for, as fmtutorial.steering.
// Chapter 11.

import { observe, spreads } from "./exact.js";

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
 * Its derivative is α/σ² times the posterior covariance, so that it is the velocity as if x̂₁ were
 * x̂₁ + Cov(x₁ | x) b. Where σ is not 0.
 */
export function guessed({ schedule, target }, linear) {
  const { means, variances } = target;
  return (x, t) => {
    const [alpha, sigma] = [schedule.alpha(t), schedule.sigma(t)];
    const onNoise = schedule.sigmaDot(t) / sigma; // v = (α̇ − α σ̇/σ) x̂₁ + (σ̇/σ) x
    const onData = schedule.alphaDot(t) - alpha * onNoise;
    const known = spreads(target, alpha, sigma);
    const out = new Float64Array(x.length);
    const [mean, end, cov] = [[0, 0], [0, 0], [0, 0]];
    for (let i = 0; i < x.length; i += 2) {
      const { shares, totals } = observe(target, x[i], x[i + 1], alpha, sigma, known);
      mean.fill(0);
      cov.fill(0);
      for (let k = 0; k < shares.length; k++) {
        const gain = (alpha * variances[k]) / totals[k];
        for (let d = 0; d < 2; d++) {
          end[d] = means[2 * k + d] + gain * (x[i + d] - alpha * means[2 * k + d]);
          mean[d] += shares[k] * end[d];
        }
        const along = end[0] * linear[0] + end[1] * linear[1];
        const within = (variances[k] * sigma * sigma) / totals[k];
        for (let d = 0; d < 2; d++) cov[d] += shares[k] * (within * linear[d] + end[d] * along);
      }
      const along = mean[0] * linear[0] + mean[1] * linear[1];
      for (let d = 0; d < 2; d++) {
        out[i + d] = onData * (mean[d] + cov[d] - mean[d] * along) + onNoise * x[i + d];
      }
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
