// Exact fields of mixtures and of points in the plane, as fmtutorial.exact.ExactField. Chapter 2.
//
// Points are Float64Arrays x₀, y₀, x₁, y₁, …; a target is {weights, means, variances}: one weight,
// one point and one variance for each component. A data set is a target with variances of 0.

/** The target whose components are the points of a data set, with equal weights; std blurs them. */
export function points(means, std = 0) {
  const n = means.length / 2;
  return {
    weights: new Float64Array(n).fill(1 / n),
    means: Float64Array.from(means),
    variances: new Float64Array(n).fill(std * std),
  };
}

/** Two half circles of twenty blurred points each, as fmtutorial.distributions.two_moons has them. */
export function moons(radius, std) {
  const means = [];
  for (let i = 0; i < 20; i++) {
    const angle = (Math.PI * (i + 0.5)) / 20;
    const [x, y] = [radius * (Math.cos(angle) - 1 / 2), radius * (Math.sin(angle) - 1 / 4)];
    means.push(x, y, -x, -y);
  }
  return points(means, std);
}

/** Gaussians on a circle, as fmtutorial.distributions.ring_of_gaussians. */
export function ring(modes = 11, radius = 10, std = 1) {
  const means = new Float64Array(2 * modes);
  for (let k = 0; k < modes; k++) {
    means[2 * k] = radius * Math.cos((2 * Math.PI * k) / modes);
    means[2 * k + 1] = radius * Math.sin((2 * Math.PI * k) / modes);
  }
  return points(means, std);
}

/**
 * What all points share at signal alpha and noise sigma: each component's variance α²v + σ², and the
 * logarithm of its weight times the constant of its density.
 */
export function spreads({ weights, variances }, alpha, sigma) {
  const totals = variances.map((v) => alpha * alpha * v + sigma * sigma);
  if (totals.includes(0)) throw new RangeError("a point mass has no density at σ = 0");
  const constants = totals.map((total, k) => Math.log(weights[k] / (2 * Math.PI * total)));
  return { totals, constants };
}

/**
 * How one point is seen at signal alpha and noise sigma: the posterior weight of each component,
 * its variance α²v + σ², and the log density of the point. `known` spares many points their
 * spreads.
 */
export function observe(target, x, y, alpha, sigma, known = spreads(target, alpha, sigma)) {
  const { means } = target;
  const { totals, constants } = known;
  const n = totals.length;
  const shares = new Float64Array(n);
  let largest = -Infinity;
  for (let k = 0; k < n; k++) {
    const dx = x - alpha * means[2 * k];
    const dy = y - alpha * means[2 * k + 1];
    shares[k] = constants[k] - (dx * dx + dy * dy) / (2 * totals[k]);
    largest = Math.max(largest, shares[k]);
  }
  let sum = 0;
  for (let k = 0; k < n; k++) sum += shares[k] = Math.exp(shares[k] - largest);
  for (let k = 0; k < n; k++) shares[k] /= sum;
  return { shares, totals, logProb: largest + Math.log(sum) };
}

/** What x_t says about x₁: the posterior weight of each component, log p_t(x) and the means below. */
export class ExactField {
  constructor(schedule, target) {
    this.schedule = schedule;
    this.target = target;
    this.velocity = this.velocity.bind(this);
    this.score = this.score.bind(this);
  }

  /** Σ weight (constant mean + slope (x − α mean)) at each point, for slope(v, v + noise). */
  average(x, t, constant, slope) {
    const alpha = this.schedule.alpha(t);
    const sigma = this.schedule.sigma(t);
    const { means, variances } = this.target;
    const known = spreads(this.target, alpha, sigma);
    const out = new Float64Array(x.length);
    for (let i = 0; i < x.length; i += 2) {
      const { shares, totals } = observe(this.target, x[i], x[i + 1], alpha, sigma, known);
      for (let k = 0; k < shares.length; k++) {
        const rate = slope(variances[k], totals[k], alpha, sigma);
        for (let d = 0; d < 2; d++) {
          const mean = means[2 * k + d];
          out[i + d] += shares[k] * (constant * mean + rate * (x[i + d] - alpha * mean));
        }
      }
    }
    return out;
  }

  /** v_t(x) = E[α̇ x₁ + σ̇ x₀ | x_t = x]. */
  velocity(x, t) {
    const alphaDot = this.schedule.alphaDot(t);
    const sigmaDot = this.schedule.sigmaDot(t);
    return this.average(
      x, t, alphaDot,
      (v, total, alpha, sigma) => (alphaDot * alpha * v + sigmaDot * sigma) / total,
    );
  }

  /** ∇ log p_t(x). */
  score(x, t) {
    return this.average(x, t, 0, (v, total) => -1 / total);
  }

  /** E[x₁ | x_t = x]. */
  posteriorMean(x, t) {
    return this.average(x, t, 1, (v, total, alpha) => (alpha * v) / total);
  }

  /**
   * E‖u − v_t(x)‖² given x_t = x, where u = α̇ x₁ + σ̇ x₀: the part within the components,
   * (α̇σ − ασ̇)² times the trace of v / (α²v + σ²), and the part between their means. Chapter 3.
   */
  targetVariance(x, t) {
    const [alpha, sigma] = [this.schedule.alpha(t), this.schedule.sigma(t)];
    const [alphaDot, sigmaDot] = [this.schedule.alphaDot(t), this.schedule.sigmaDot(t)];
    const { means, variances } = this.target;
    const velocity = this.velocity(x, t);
    const out = new Float64Array(x.length / 2);
    for (let i = 0; i < out.length; i++) {
      const { shares, totals } = observe(this.target, x[2 * i], x[2 * i + 1], alpha, sigma);
      for (let k = 0; k < shares.length; k++) {
        const rate = (alphaDot * alpha * variances[k] + sigmaDot * sigma) / totals[k];
        let variance = (2 * (alphaDot * sigma - alpha * sigmaDot) ** 2 * variances[k]) / totals[k];
        for (let d = 0; d < 2; d++) {
          const mean = means[2 * k + d];
          const component = alphaDot * mean + rate * (x[2 * i + d] - alpha * mean);
          variance += (component - velocity[2 * i + d]) ** 2;
        }
        out[i] += shares[k] * variance;
      }
    }
    return out;
  }

  /** log p_t(x). */
  logProb(x, t) {
    const alpha = this.schedule.alpha(t);
    const sigma = this.schedule.sigma(t);
    const known = spreads(this.target, alpha, sigma);
    const out = new Float64Array(x.length / 2);
    for (let i = 0; i < out.length; i++) {
      out[i] = observe(this.target, x[2 * i], x[2 * i + 1], alpha, sigma, known).logProb;
    }
    return out;
  }
}
