// The globe: shortest paths and the exact field of a data set, as Sphere(2)
// and GeodesicField in fmtutorial.manifolds. Chapter 14.
//
// Points are Float64Arrays x₀, y₀, z₀, x₁, … of unit vectors, and tangent vectors beside them.

import { normal } from "./random.js";

// several times as fast as Math.hypot
const norm = (x, i) => Math.sqrt(x[i] * x[i] + x[i + 1] * x[i + 1] + x[i + 2] * x[i + 2]);

/** x / ‖x‖. */
export function project(x) {
  const out = new Float64Array(x.length);
  for (let i = 0; i < x.length; i += 3) {
    const length = norm(x, i);
    for (let d = 0; d < 3; d++) out[i + d] = x[i + d] / length;
  }
  return out;
}

/** n points of the uniform law. */
export function uniformOnSphere(uniform, n) {
  return project(normal(uniform, 3 * n));
}

/** The angle between point i of x and point k of y, exact to rounding near 0 and near π as well. */
export function angle(x, i, y, k) {
  let [apart, opposite] = [0, 0];
  for (let d = 0; d < 3; d++) {
    apart += (x[3 * i + d] - y[3 * k + d]) ** 2;
    opposite += (x[3 * i + d] + y[3 * k + d]) ** 2;
  }
  return 2 * Math.atan2(Math.sqrt(apart), Math.sqrt(opposite));
}

const sinc = (angle) => (angle < 1e-4 ? 1 - angle ** 2 / 6 : Math.sin(angle) / angle);

/** Add `share` of log(x, y) to out: the tangent vector at point i of x to point k of y. */
function towards(out, x, i, y, k, turn, share) {
  if (turn > Math.PI - 1e-14) throw new RangeError("from an antipode all directions are shortest");
  const far = share / sinc(turn);
  // x + y or y − x, whichever is short, has no digits to lose
  const sign = turn < Math.PI / 2 ? 1 : -1;
  let along = 0;
  for (let d = 0; d < 3; d++) along += x[3 * i + d] * (y[3 * k + d] - sign * x[3 * i + d]);
  for (let d = 0; d < 3; d++) {
    const leg = y[3 * k + d] - sign * x[3 * i + d] - along * x[3 * i + d];
    out[3 * i + d] += far * leg;
  }
}

/** log(x, y) for each pair of points. */
export function shortest(x, y) {
  const out = new Float64Array(x.length);
  for (let i = 0; i < x.length / 3; i++) towards(out, x, i, y, i, angle(x, i, y, i), 1);
  return out;
}

/** Where the great circles from x with velocities v are at time t. */
export function follow(x, v, t) {
  const out = new Float64Array(x.length);
  for (let i = 0; i < x.length; i += 3) {
    const turn = t * norm(v, i);
    const [cosine, far] = [Math.cos(turn), t * sinc(turn)];
    for (let d = 0; d < 3; d++) out[i + d] = cosine * x[i + d] + far * v[i + d];
  }
  return project(out); // rounding does not add up
}

/** Euler's step along the sphere. */
export function geodesicEuler(v, x, t, h) {
  return follow(x, v(x, t), h);
}

/** By how much exp stretches areas at an angle; 0 beyond π. */
export const volumeFactor = (angle) => (angle <= Math.PI ? sinc(angle) : 0);

/** The marginal field of the geodesics from uniform noise to the points of a data set. */
export class GeodesicField {
  constructor(points) {
    this.points = Float64Array.from(points);
    this.velocity = this.velocity.bind(this);
  }

  /** The density of x_t = x on the way to each point, times the area and (1 − t)²; and angles. */
  look(x, i, t) {
    const n = this.points.length / 3;
    const [turns, weights] = [new Float64Array(n), new Float64Array(n)];
    for (let k = 0; k < n; k++) {
      turns[k] = angle(x, i, this.points, k);
      weights[k] = volumeFactor(turns[k] / (1 - t)) / volumeFactor(turns[k]);
    }
    return { turns, weights, sum: weights.reduce((a, b) => a + b, 0) };
  }

  /** v_t(x), for t < 1; where no point gives a density, it is that of the nearest point. */
  velocity(x, t) {
    const out = new Float64Array(x.length);
    for (let i = 0; i < x.length / 3; i++) {
      const { turns, weights, sum } = this.look(x, i, t);
      const nearest = sum > 0 ? -1 : turns.indexOf(Math.min(...turns));
      for (let k = 0; k < turns.length; k++) {
        const share = sum > 0 ? weights[k] / sum : Number(k === nearest);
        if (share > 0) towards(out, x, i, this.points, k, turns[k], share / (1 - t));
      }
    }
    return out;
  }

  /** log p_t(x) per unit of area. */
  logProb(x, t) {
    const volume = 4 * Math.PI * (1 - t) ** 2 * (this.points.length / 3);
    const out = new Float64Array(x.length / 3);
    for (let i = 0; i < out.length; i++) out[i] = Math.log(this.look(x, i, t).sum / volume);
    return out;
  }
}
