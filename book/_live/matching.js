// Distribution matching: students that know their own density, and the gradients of both
// divergences with noise added, as fmtutorial.distribution_matching with exact fields. Chapter 10.
//
// A student has `weights` (a Float64Array), makes points, and answers score(x, t) and logProb(x, t)
// of its samples with noise. Points are Float64Arrays x₀, y₀, x₁, y₁, …

import { ExactField, points } from "./exact.js";

/** y = c + A z: one Gaussian. Its weights are c and the rows of A. */
export class GaussianStudent {
  constructor(schedule, weights) {
    this.schedule = schedule;
    this.weights = Float64Array.from(weights);
  }

  samples(z) {
    const [cx, cy, a, b, c, d] = this.weights;
    const out = new Float64Array(z.length);
    for (let i = 0; i < z.length; i += 2) {
      out[i] = cx + a * z[i] + b * z[i + 1];
      out[i + 1] = cy + c * z[i] + d * z[i + 1];
    }
    return out;
  }

  /** The inverse [p, q, r] of the covariance α²AAᵀ + σ², which is symmetric, and its determinant. */
  precision(t) {
    const [, , a, b, c, d] = this.weights;
    const [signal, noise] = [this.schedule.alpha(t) ** 2, this.schedule.sigma(t) ** 2];
    const [xx, xy, yy] = [a * a + b * b, a * c + b * d, c * c + d * d].map((v) => signal * v);
    const determinant = (xx + noise) * (yy + noise) - xy * xy;
    const inverse = [yy + noise, -xy, xx + noise].map((v) => v / determinant);
    return { inverse, determinant };
  }

  /** ∇ log q_t(x). */
  score(x, t) {
    const { inverse } = this.precision(t);
    const alpha = this.schedule.alpha(t);
    const out = new Float64Array(x.length);
    for (let i = 0; i < x.length; i += 2) {
      const off = [x[i] - alpha * this.weights[0], x[i + 1] - alpha * this.weights[1]];
      const [sx, sy] = product(inverse, off);
      [out[i], out[i + 1]] = [-sx, -sy];
    }
    return out;
  }

  /** log q_t(x). */
  logProb(x, t) {
    const { determinant } = this.precision(t);
    const score = this.score(x, t);
    const alpha = this.schedule.alpha(t);
    const constant = -Math.log(2 * Math.PI) - Math.log(determinant) / 2;
    return Float64Array.from({ length: x.length / 2 }, (_, i) => {
      const [dx, dy] = [0, 1].map((d) => x[2 * i + d] - alpha * this.weights[d]);
      return constant + (dx * score[2 * i] + dy * score[2 * i + 1]) / 2;
    });
  }

  /** The gradient of the weights from one for each sample: the mean over samples. */
  back(pulls, z) {
    const out = new Float64Array(6);
    const n = z.length / 2;
    for (let i = 0; i < z.length; i += 2) {
      const [gx, gy] = [pulls[i] / n, pulls[i + 1] / n];
      const [zx, zy] = [z[i], z[i + 1]];
      [gx, gy, gx * zx, gx * zy, gy * zx, gy * zy].forEach((value, k) => (out[k] += value));
    }
    return out;
  }

  /** The gradient of KL(data ‖ student): only the mean and covariance of the data matter to it. */
  covering(target, t) {
    const { inverse } = this.precision(t);
    const alpha = this.schedule.alpha(t);
    const noise = this.schedule.sigma(t) ** 2;
    const [mx, my, sxx, sxy, syy] = moments(target);
    const off = [alpha * (mx - this.weights[0]), alpha * (my - this.weights[1])];
    const middle = product(inverse, off).map((value) => -alpha * value);
    // Σ⁻¹ − Σ⁻¹ (S + off offᵀ) Σ⁻¹ with S the covariance of the noisy data, times α² A
    const spread = [
      alpha * alpha * sxx + noise + off[0] * off[0],
      alpha * alpha * sxy + off[0] * off[1],
      alpha * alpha * syy + noise + off[1] * off[1],
    ];
    const columns = [[spread[0], spread[1]], [spread[1], spread[2]]].map((s) => product(inverse, s));
    const [left, right] = [0, 1].map((row) => product(inverse, [columns[0][row], columns[1][row]]));
    const [p, q, r] = inverse;
    const [xx, xy, yy] = [p - left[0], q - (left[1] + right[0]) / 2, r - right[1]];
    const [, , a, b, c, d] = this.weights;
    const factor = [xx * a + xy * c, xx * b + xy * d, xy * a + yy * c, xy * b + yy * d];
    return Float64Array.of(...middle, ...factor.map((value) => alpha * alpha * value));
  }
}

/** Points that move one by one; with noise they are a mixture. Their places are the weights. */
export class PointStudent {
  constructor(schedule, weights) {
    this.schedule = schedule;
    this.weights = Float64Array.from(weights);
  }

  get field() {
    return new ExactField(this.schedule, points(this.weights));
  }

  /** Every point in turn, as often as there are z to fill. */
  samples(z) {
    const { weights } = this;
    return Float64Array.from(z, (_, i) => weights[i % weights.length]);
  }

  score(x, t) {
    return this.field.score(x, t);
  }

  logProb(x, t) {
    return this.field.logProb(x, t);
  }

  back(pulls) {
    const out = new Float64Array(this.weights.length);
    pulls.forEach((value, i) => (out[i % out.length] += (2 * value) / pulls.length));
    return out;
  }
}

/** A symmetric matrix [xx, xy, yy] times a vector. */
function product([xx, xy, yy], [x, y]) {
  return [xx * x + xy * y, xy * x + yy * y];
}

/** Mean and covariance of a mixture: mx, my, xx, xy, yy. */
export function moments({ weights, means, variances }) {
  const out = [0, 0, 0, 0, 0];
  weights.forEach((weight, k) => {
    const [x, y] = [means[2 * k], means[2 * k + 1]];
    const each = [x, y, x * x + variances[k], x * y, y * y + variances[k]];
    each.forEach((value, i) => (out[i] += weight * value));
  });
  const [x, y] = out;
  return [x, y, out[2] - x * x, out[3] - x * y, out[4] - y * y];
}

/** Samples with noise, α y + σ ε. */
export function noised(schedule, y, noise, t) {
  const [alpha, sigma] = [schedule.alpha(t), schedule.sigma(t)];
  return y.map((value, i) => alpha * value + sigma * noise[i]);
}

/** The difference of two scores, ∇ log q_t − ∇ log p_t, at noisy samples x. */
export function scoreDifference(student, data, x, t) {
  const wanted = data.score(x, t);
  return student.score(x, t).map((value, i) => value - wanted[i]);
}

/** The gradient of KL(student ‖ data) at noise level t for the student's weights. */
export function seeking(student, data, z, noise, t) {
  const x = noised(student.schedule, student.samples(z), noise, t);
  const alpha = student.schedule.alpha(t);
  return student.back(scoreDifference(student, data, x, t).map((value) => alpha * value), z);
}

/** The mean of log(one / other) over samples x of the one: their divergence. */
export function divergence(one, other, x, t) {
  const wanted = other.logProb(x, t);
  const mean = one.logProb(x, t).reduce((sum, value, i) => sum + value - wanted[i], 0);
  return mean / (x.length / 2);
}
