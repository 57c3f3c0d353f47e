// Brownian bridges of noise σ between the points of two clouds that a plan pairs. Chapter 13.
//
// A plan is a list of rows, one for each point of x0. Velocity and score are the averages of
// fmtutorial.bridges.Bridge's over the pairs that a place may belong to; they need 0 < t < 1.

const RARE = 1e-14; // a pair that nobody draws

/** The process that has the density of all bridges, and has forgotten the pairs. */
export class PlanField {
  constructor(x0, x1, plan, sigma) {
    this.sigma = sigma;
    const pairs = plan.flatMap((row, i) => [...row].map((weight, j) => ({ i, j, weight })));
    this.pairs = pairs.filter(({ weight }) => weight > RARE);
    this.logs = Float64Array.from(this.pairs, ({ weight }) => Math.log(weight));
    const places = (x, side) =>
      Float64Array.from(this.pairs.flatMap((pair) => [x[2 * pair[side]], x[2 * pair[side] + 1]]));
    [this.begin, this.end] = [places(x0, "i"), places(x1, "j")];
  }

  /** The mean start and the mean end of the bridges through each place: two lists of points. */
  ends(x, t) {
    const { begin, end, logs, sigma } = this;
    const twice = 2 * sigma * sigma * t * (1 - t);
    const means = begin.map((value, k) => (1 - t) * value + t * end[k]);
    const weights = new Float64Array(logs.length);
    const out = [new Float64Array(x.length), new Float64Array(x.length)];
    for (let n = 0; n < x.length; n += 2) {
      let largest = -Infinity;
      for (let k = 0; k < logs.length; k++) {
        const dx = x[n] - means[2 * k];
        const dy = x[n + 1] - means[2 * k + 1];
        weights[k] = logs[k] - (dx * dx + dy * dy) / twice;
        if (weights[k] > largest) largest = weights[k];
      }
      let total = 0, ax = 0, ay = 0, bx = 0, by = 0; // plain numbers: this is the inner loop
      for (let k = 0; k < logs.length; k++) {
        if (weights[k] < largest - 40) continue; // below rounding
        const weight = Math.exp(weights[k] - largest);
        total += weight;
        ax += weight * begin[2 * k];
        ay += weight * begin[2 * k + 1];
        bx += weight * end[2 * k];
        by += weight * end[2 * k + 1];
      }
      out[0].set([ax / total, ay / total], n);
      out[1].set([bx / total, by / total], n);
    }
    return out;
  }

  /** The velocity of the density, which moves points without noise. */
  velocity(x, t) {
    const [begin, end] = this.ends(x, t);
    const rate = (1 - 2 * t) / (2 * t * (1 - t));
    return x.map(
      (value, k) => end[k] - begin[k] + rate * (value - (1 - t) * begin[k] - t * end[k]),
    );
  }

  /** ∇ log p_t(x). */
  score(x, t) {
    const [begin, end] = this.ends(x, t);
    const variance = this.sigma ** 2 * t * (1 - t);
    return x.map((value, k) => ((1 - t) * begin[k] + t * end[k] - value) / variance);
  }

  /** The forward drift, velocity + σ²/2 score. */
  drift(x, t) {
    const end = this.ends(x, t)[1];
    return x.map((value, k) => (end[k] - value) / (1 - t));
  }
}

/** A step from t to s of a Brownian bridge that aims at `end`; exact if the aim stays. */
export function bridgeStep(x, end, t, s, sigma, noise) {
  const width = sigma * Math.sqrt(((s - t) * (1 - s)) / (1 - t));
  return x.map((value, k) => value + ((s - t) * (end[k] - value)) / (1 - t) + width * noise[k]);
}

/** A step from t to s without noise: the place within a bridge is kept, as DDIM keeps its noise. */
export function flowStep(x, [begin, end], t, s) {
  const ratio = Math.sqrt((s * (1 - s)) / (t * (1 - t)));
  return x.map((value, k) => {
    const [here, there] = [t, s].map((time) => (1 - time) * begin[k] + time * end[k]);
    return there + ratio * (value - here);
  });
}

/** Mean squared distance from their mean of the points at time t of all bridges of a plan. */
export function variance(x0, x1, plan, sigma, t) {
  let [total, mx, my, square] = [0, 0, 0, 0];
  plan.forEach((row, i) =>
    row.forEach((weight, j) => {
      const [x, y] = [0, 1].map((d) => (1 - t) * x0[2 * i + d] + t * x1[2 * j + d]);
      total += weight;
      mx += weight * x;
      my += weight * y;
      square += weight * (x * x + y * y);
    }),
  );
  const around = square / total - (mx / total) ** 2 - (my / total) ** 2;
  return around + 2 * sigma * sigma * t * (1 - t);
}

/** How many partners a point of x0 has: e to the entropy of its row, on average. */
export function partners(plan) {
  const each = plan.map((row) => {
    const total = row.reduce((sum, value) => sum + value);
    const entropy = row.reduce((sum, value) => {
      const share = value / total;
      return share > 0 ? sum - share * Math.log(share) : sum;
    }, 0);
    return Math.exp(entropy);
  });
  return each.reduce((sum, value) => sum + value) / plan.length;
}
