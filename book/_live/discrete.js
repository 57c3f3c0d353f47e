// Chains on sequences of tokens: the path, the exact rates of a known law, steps of a chain and
// what they do to a law, as in fmtutorial.discrete. Chapter 12.
//
// A sequence is an array of d tokens. A table has a row for each position, with a number for each
// of the S tokens. A law is a Float64Array of the probabilities of allStates(S, d).

import { LINEAR } from "./schedules.js";

/** Every sequence, the last position running fastest. */
export function allStates(size, positions) {
  const digit = (index, i) => Math.floor(index / size ** (positions - 1 - i)) % size;
  return Array.from({ length: size ** positions }, (_, index) =>
    Array.from({ length: positions }, (_, i) => digit(index, i)),
  );
}

/** The table of entry(position, token, whether x has that token there). */
const table = (x, size, entry) =>
  x.map((now, i) => Array.from({ length: size }, (_, j) => entry(i, j, Number(j === now))));

const sum = (values) => values.reduce((total, value) => total + value, 0);

/** p_t(x | x₁) = (1 − α) p_0(x) + α [x = x₁] for each position. */
export class TokenPath {
  constructor(source, schedule = LINEAR) {
    this.source = source;
    this.schedule = schedule;
    this.size = source.length;
  }

  /** ν = α̇/(1 − α), at which noise becomes data; t below 1. */
  hazard(t) {
    return this.schedule.alphaDot(t) / (1 - this.schedule.alpha(t));
  }

  /** ν (p̂ − δ_x), the marginal rate. */
  rate(posterior, x, t) {
    const hazard = this.hazard(t);
    return table(x, this.size, (i, j, here) => hazard * (posterior[i][j] - here));
  }

  /** α p̂ + (1 − α) p_0 − δ_x, which leaves p_t as it is. */
  correctorRate(posterior, x, t) {
    const alpha = this.schedule.alpha(t);
    const renewed = (i, j) => alpha * posterior[i][j] + (1 - alpha) * this.source[j];
    return table(x, this.size, (i, j, here) => renewed(i, j) - here);
  }
}

/** From masks, one token more than those of the data. */
export const maskingPath = (tokens, schedule) =>
  new TokenPath([...Array(tokens).fill(0), 1], schedule);

export const uniformPath = (tokens, schedule) =>
  new TokenPath(Array(tokens).fill(1 / tokens), schedule);

/** Posterior and marginal rate of a known law on sequences of some positions. */
export class ExactRate {
  constructor(path, law, positions) {
    this.path = path;
    this.law = law;
    this.states = allStates(path.size, positions);
  }

  /** p(x₁) p_t(x | x₁) for each sequence x₁. */
  joint(x, t) {
    const alpha = this.path.schedule.alpha(t);
    const noise = x.map((now) => (1 - alpha) * this.path.source[now]);
    const seen = (x1) => x.reduce((p, now, i) => p * (noise[i] + alpha * Number(x1[i] === now)), 1);
    return this.states.map((x1, s) => this.law[s] * seen(x1));
  }

  /** p̂, the law of each position's data token given x_t = x; null if the path never shows x. */
  posterior(x, t) {
    const joint = this.joint(x, t);
    const total = sum(joint);
    if (total <= 0) return null;
    const found = table(x, this.path.size, () => 0);
    this.states.forEach((x1, s) => {
      x1.forEach((token, i) => (found[i][token] += joint[s] / total));
    });
    return found;
  }

  /** p_t. */
  lawAt(t) {
    return Float64Array.from(this.states, (x) => sum(this.joint(x, t)));
  }
}

/** I + h R. */
export function eulerStep(rates, x, h) {
  return rates.map((row, i) => row.map((rate, j) => Number(j === x[i]) + h * rate));
}

/** The law of each position's first jump at rates that stand still for h. */
export function leapStep(rates, x, h) {
  return rates.map((row, i) => {
    const total = sum(row.filter((_, j) => j !== x[i]));
    const share = total > 0 ? -Math.expm1(-h * total) / total : 0;
    return row.map((rate, j) => (j === x[i] ? Math.exp(-h * total) : share * rate));
  });
}

export const TOKEN_STEPS = { eulerStep, leapStep };

/**
 * A step from t to end in every sequence and, if strength is positive, one of the corrector at end
 * for strength times as long. Returns one list of tables, or two. What is never shown stays.
 */
export function stepTables(exact, step, t, end, strength) {
  const { path, states } = exact;
  const h = end - t;
  const at = (time, apply) =>
    states.map((x) => {
      const posterior = exact.posterior(x, time);
      return posterior ? apply(posterior, x) : table(x, path.size, (_i, _j, here) => here);
    });
  const found = [at(t, (posterior, x) => step(path.rate(posterior, x, t), x, h))];
  if (strength > 0) {
    const corrector = (posterior, x) => path.correctorRate(posterior, x, end);
    found.push(at(end, (posterior, x) => leapStep(corrector(posterior, x), x, strength * h)));
  }
  return found;
}

/** The law after a step: positions jump independently of each other, given the sequence before. */
export function push(states, law, tables) {
  const after = new Float64Array(law.length);
  states.forEach((_, s) => {
    if (law[s] === 0) return;
    states.forEach((y, r) => {
      after[r] += y.reduce((product, token, i) => product * tables[s][i][token], law[s]);
    });
  });
  return after;
}

/** Half the sum of the distances of probabilities. */
export function totalVariation(one, other) {
  return sum(one.map((value, s) => Math.abs(value - other[s]))) / 2;
}
