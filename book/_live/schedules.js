// Schedules: α and σ of t with their derivatives, as in fmtutorial.paths. Chapter 2.

const HALF_PI = Math.PI / 2;
const BETA_MIN = 0.1;
const BETA_MAX = 20;

/** α = t, σ = 1 − (1 − left) t; some noise may be left at t = 1. */
export function lipman(left) {
  return {
    name: left === 0 ? "linear" : `lipman(${left})`,
    alpha: (t) => t,
    sigma: (t) => 1 - t + left * t,
    alphaDot: () => 1,
    sigmaDot: () => left - 1,
  };
}

export const LINEAR = lipman(0);

export const COSINE = {
  name: "cosine",
  alpha: (t) => Math.sin(HALF_PI * t),
  sigma: (t) => Math.sin(HALF_PI * (1 - t)),
  alphaDot: (t) => HALF_PI * Math.sin(HALF_PI * (1 - t)),
  sigmaDot: (t) => -HALF_PI * Math.sin(HALF_PI * t),
};

/** Its σ̇ is −∞ at t = 1. */
export const SQRT = {
  name: "square-root",
  alpha: (t) => t,
  sigma: (t) => Math.sqrt(1 - t),
  alphaDot: () => 1,
  sigmaDot: (t) => -0.5 / Math.sqrt(1 - t),
};

const vpExponent = (t) => -0.25 * (BETA_MAX - BETA_MIN) * (1 - t) ** 2 - 0.5 * BETA_MIN * (1 - t);
const vpAlpha = (t) => Math.exp(vpExponent(t));
const vpSigma = (t) => Math.sqrt(-Math.expm1(2 * vpExponent(t)));
const vpAlphaDot = (t) => 0.5 * (BETA_MIN + (BETA_MAX - BETA_MIN) * (1 - t)) * vpAlpha(t);

/** Its σ̇ is −∞ at t = 1, and α is not 0 at t = 0. */
export const VP = {
  name: "variance-preserving",
  alpha: vpAlpha,
  sigma: vpSigma,
  alphaDot: vpAlphaDot,
  sigmaDot: (t) => (-vpAlpha(t) * vpAlphaDot(t)) / vpSigma(t),
};

export const SCHEDULES = { LINEAR, COSINE, SQRT, VP };
