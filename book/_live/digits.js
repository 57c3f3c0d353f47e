// Sampling and likelihood with a network that answers later: fmtutorial.guidance,
// fmtutorial.images and fmtutorial.likelihood. Chapter 8.
//
// A network takes images (B · 784 numbers), one time and B labels, and promises velocities.

import { euler, heun, moved } from "./solvers.js";

export const NO_LABEL = 10;

/** (1 − s) v(x, t) + s v(x, t, label); with s other than 0 and 1 two evaluations in one. */
export function guided(network, label, scale) {
  const none = label.map(() => NO_LABEL);
  if (scale === 0 || scale === 1) return (x, t) => network(x, t, scale === 0 ? none : label);
  return async (x, t) => {
    const twice = new Float64Array(2 * x.length);
    twice.set(x);
    twice.set(x, x.length);
    const v = await network(twice, t, [...none, ...label]);
    return x.map((_, i) => v[i] + scale * (v[x.length + i] - v[i]));
  };
}

/** Heun's step, but Euler's if it ends at t = 1, where a network has hardly been trained. */
export function heunToData(v, x, t, h) {
  return t + h < 1 ? heun(v, x, t, h) : euler(v, x, t, h);
}

export const SAMPLERS = { euler, heun: heunToData };

/** The most steps that so many evaluations allow. */
export function affordable(method, evaluations) {
  return method === "heun" ? Math.ceil(evaluations / 2) : evaluations;
}

export function evaluations(method, steps) {
  return method === "heun" ? 2 * steps - 1 : steps;
}

/** A step with a field that answers later: begun anew with each answer, until it has them all. */
async function patient(step, field, x, t, h) {
  const answers = [];
  for (;;) {
    let asked;
    let used = 0;
    const v = (...question) => {
      if (used < answers.length) return answers[used++];
      throw (asked = question);
    };
    try {
      return { next: step(v, x, t, h), first: answers[0] };
    } catch (error) {
      if (error !== asked) throw error;
    }
    answers.push(await field(...asked));
  }
}

/** What the state's velocity promises: x + (1 − t) v, the mean of the data that it can become. */
export function prediction(x, t, v) {
  return moved(x, 1 - t, v);
}

/** Yield {t, x, prediction} for each time of a grid, from its first, where the state is x. */
export async function* sample(field, x, times, step) {
  for (let i = 0; i + 1 < times.length; i++) {
    const t = times[i];
    const { next, first } = await patient(step, field, x, t, times[i + 1] - t);
    yield { t, x, prediction: prediction(x, t, first) };
    x = next;
  }
  yield { t: times.at(-1), x, prediction: x };
}

/** The state at the end of a grid. */
export async function last(field, x, times, step) {
  let state;
  for await (state of sample(field, x, times, step));
  return state.x;
}

/** Times from data to noise, 1 − (i/n)²: close together at the data, where the field is steep. */
export function wayToNoise(n) {
  return Float64Array.from({ length: n + 1 }, (_, i) => 1 - (i / n) ** 2);
}

// Half the length of a difference, in the units of x. Near t = 1 the field bends within a grey
// level, 2⁻⁷, and float32 rounds: for 24 test digits at t = 0.99, where the divergence is about
// −30,000, the mean error is 5 for 2⁻¹⁰, 0.3 for 2⁻¹² and 2⁻¹³, and 0.6 for 2⁻¹⁴.
const DIFFERENCE = 2 ** -12;

/** Entries ±1 with equal probability. */
export function rademacher(uniform, n) {
  return Float64Array.from({ length: n }, () => (uniform() < 0.5 ? -1 : 1));
}

/**
 * (v, −div v) for a state x with its log p as last entry. The divergence is estimated along one
 * probe of signs, Σ ε (v(x + hε) − v(x − hε)) / 2h: the field answers for three images at once.
 */
export function transport(field, probe) {
  const n = probe.length;
  return async (state, t) => {
    const x = state.subarray(0, n);
    const three = new Float64Array(3 * n);
    three.set(x);
    three.set(moved(x, DIFFERENCE, probe), n);
    three.set(moved(x, -DIFFERENCE, probe), 2 * n);
    const v = await field(three, t);
    const change = probe.reduce((sum, sign, i) => sum + sign * (v[n + i] - v[2 * n + i]), 0);
    const rate = v.slice(0, n + 1);
    rate[n] = -change / (2 * DIFFERENCE);
    return rate;
  };
}

/** Carry an image to noise: {noise, logProb}, the log-density of the image, in nats. */
export async function logLikelihood(field, x, times, step, probe) {
  const end = await last(transport(field, probe), Float64Array.of(...x, 0), times, step);
  const noise = end.slice(0, x.length);
  const atNoise = noise.reduce((sum, z) => sum - (z * z + Math.log(2 * Math.PI)) / 2, 0);
  return { noise, logProb: atNoise - end[x.length] };
}

/** The bits that each of n pixels costs: a pixel's 256 values have a width of 2⁻⁷ each. */
export function bitsPerDimension(logProb, n) {
  return -logProb / (n * Math.LN2) + 7;
}

/** An image of grey levels k = 0, …, 255 with noise of their own width, (k + u) / 128 − 1. */
export function dequantised(image, uniform) {
  return image.map((value) => (greyLevel(value) + uniform()) / 128 - 1);
}

export function greyLevel(value) {
  return Math.max(0, Math.min(255, Math.floor(128 * (value + 1))));
}

/** Towards two other noises, (a + x b + y c) / √(1 + x² + y²): it stays standard normal. */
export function turned([a, b, c], x, y) {
  const length = Math.hypot(1, x, y);
  return a.map((value, i) => (value + x * b[i] + y * c[i]) / length);
}

/** Networks in a worker: `ask(request)` promises an answer, or an Error that says what happened. */
export class Networks {
  constructor(patience = 60) {
    this.waiting = new Map();
    this.count = 0;
    this.patience = 1000 * patience;
    this.worker = new Worker(new URL("digits-worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data: { id, answer, error } }) => {
      const { answered, failed } = this.waiting.get(id) ?? {};
      if (error) failed?.(new Error(error));
      else answered?.(answer);
    };
    this.worker.onerror = (event) => {
      event.preventDefault();
      this.lose(event.message || "its worker could not start");
    };
  }

  lose(reason) {
    this.worker.terminate();
    for (const { failed } of this.waiting.values()) failed(new Error(reason));
  }

  ask(request) {
    const id = this.count++;
    const answer = new Promise((answered, failed) => {
      this.waiting.set(id, { answered, failed });
      this.worker.postMessage({ id, ...request });
    });
    const clock = setTimeout(() => this.lose("it did not answer for a minute"), this.patience);
    return answer.finally(() => {
      clearTimeout(clock);
      this.waiting.delete(id);
    });
  }

  /** Load published weights; promises a network. */
  async network(name) {
    await this.ask({ load: name });
    return (x, t, label) => this.ask({ name, x, t, label });
  }
}
