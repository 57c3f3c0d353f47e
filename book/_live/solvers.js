// Steps of ODE solvers and the loop over a grid, as fmtutorial.solvers. Chapter 5.
//
// A field is v(x, t): from points and one time to velocities, Float64Arrays of one length.

/** x + h v. */
export function moved(x, h, v) {
  const out = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) out[i] = x[i] + h * v[i];
  return out;
}

export function euler(v, x, t, h) {
  return moved(x, h, v(x, t));
}

export function midpoint(v, x, t, h) {
  return moved(x, h, v(moved(x, h / 2, v(x, t)), t + h / 2));
}

export function heun(v, x, t, h) {
  const first = v(x, t);
  const second = v(moved(x, h, first), t + h);
  return moved(moved(x, h / 2, first), h / 2, second);
}

export function rk4(v, x, t, h) {
  const k1 = v(x, t);
  const k2 = v(moved(x, h / 2, k1), t + h / 2);
  const k3 = v(moved(x, h / 2, k2), t + h / 2);
  const k4 = v(moved(x, h, k3), t + h);
  return x.map((value, i) => value + (h / 6) * (k1[i] + 2 * k2[i] + 2 * k3[i] + k4[i]));
}

export const STEPS = { euler, midpoint, heun, rk4 };
/** Evaluations of the field in one step. */
export const COSTS = { euler: 1, midpoint: 2, heun: 2, rk4: 4 };

/** n + 1 times from start to end; a decreasing grid integrates backwards. */
export function grid(n, start = 0, end = 1) {
  return Float64Array.from({ length: n + 1 }, (_, i) => start + ((end - start) * i) / n);
}

/** The states on a grid of times, the first of them x. */
export function solve(v, x, times, step) {
  const states = [x];
  for (let i = 0; i + 1 < times.length; i++) {
    states.push(step(v, states[i], times[i], times[i + 1] - times[i]));
  }
  return states;
}
