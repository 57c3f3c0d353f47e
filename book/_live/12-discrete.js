// Chapter 12: two tokens that depend on each other. A cell is a sequence; the marginal chain moves
// along a row or a column, one token at a time. A step of a sampler lets both jump, neither seeing
// the other: diagonal moves, which make the tokens less dependent than they should be. The laws are
// computed, not counted.

import { Chart } from "./chart.js";
import {
  ExactRate, TOKEN_STEPS, maskingPath, push, stepTables, totalVariation, uniformPath,
} from "./discrete.js";
import { Figure, counted } from "./figure.js";
import { Plane } from "./plane.js";
import { generator, normal } from "./random.js";

const EXTENT = 2;
const TOKENS = "abc";
const SEQUENCES = 80; // that are drawn
const SECONDS = 5;
const GRIDS = [1, 2, 4, 8, 16, 32]; // steps, of the chart
const SMALLEST = 0.001; // distance in the chart
const DATA = {
  "mostly equal": ([a, b]) => (a === b ? 0.8 : 0.1) / 3,
  "never equal": ([a, b]) => (a === b ? 0 : 1 / 6),
  independent: ([a, b]) => [0.5, 0.3, 0.2][a] * [0.2, 0.2, 0.6][b],
};
const NOISE = { "a mask": maskingPath(TOKENS.length), "uniform": uniformPath(TOKENS.length) };
const STEPS = { Euler: TOKEN_STEPS.eulerStep, leap: TOKEN_STEPS.leapStep };

export function start(element) {
  const figure = new Figure(element, "Data, noise, sampler and time");
  const plane = new Plane(figure, EXTENT, "The law of two tokens, and sequences that jump in it.");
  const chart = new Chart(
    figure,
    "The distance of the samples' law from the data, by how often the posterior is asked.",
    { label: "evaluations of the posterior", from: 1, to: 64, log: true },
    { label: "distance at t = 1", from: SMALLEST, to: 1, log: true },
  );
  let [data, noise, kind] = ["mostly equal", "a mask", "Euler"];
  let [steps, strength, seed] = [4, 0, 1];
  let watched = [-1.5, 1.5]; // a place in the cell of a sequence
  let exact, laws, ways, plain, corrected;

  /** The law at the start and after each step, and the tables of the steps. */
  function chain(n, corrector) {
    const run = { laws: [exact.lawAt(0)], tables: [] };
    for (let k = 0; k < n; k++) {
      const tables = stepTables(exact, STEPS[kind], k / n, (k + 1) / n, corrector);
      run.tables.push(tables);
      run.laws.push(tables.reduce((law, one) => push(exact.states, law, one), run.laws[k]));
    }
    return run;
  }

  const missed = (run) => totalVariation(run.laws.at(-1), exact.law);
  const cost = (n, corrector) => (corrector > 0 ? 2 * n : n); // a corrector asks again
  const curve = (corrector) =>
    GRIDS.map((n) => [cost(n, corrector), missed(chain(n, corrector))]);

  function draw(uniform, row) {
    let left = uniform();
    const token = row.findIndex((chance) => (left -= chance) < 0);
    return token < 0 ? row.indexOf(Math.max(...row)) : token; // rounding
  }

  /** The ways of the sequences that are drawn, and whether both tokens jumped in a step. */
  function walk(tables) {
    const uniform = generator(seed);
    const { size, source } = exact.path;
    return Array.from({ length: SEQUENCES }, () => {
      let x = [draw(uniform, source), draw(uniform, source)];
      const way = [{ x, both: false }];
      for (const parts of tables) {
        let both = false;
        for (const part of parts) {
          const next = part[x[0] * size + x[1]].map((row) => draw(uniform, row));
          both ||= next.every((token, i) => token !== x[i]);
          x = next;
        }
        way.push({ x, both });
      }
      return way;
    });
  }

  function run() {
    const found = chain(steps, strength);
    laws = found.laws;
    ways = walk(found.tables);
    figure.draw();
  }

  function begin() {
    const path = NOISE[noise];
    const law = new ExactRate(path, [], 2).states.map((x) =>
      x.some((token) => token >= TOKENS.length) ? 0 : DATA[data](x),
    );
    exact = new ExactRate(path, law, 2);
    plain = curve(0);
    correct();
  }

  function correct() {
    corrected = strength > 0 ? curve(strength) : plain;
    run();
  }

  const cell = () => (2 * EXTENT) / exact.path.size;
  const centre = (token) => (token + 0.5) * cell() - EXTENT;
  const name = (x) => x.map((token) => TOKENS[token] ?? "?").join("");
  const under = () =>
    watched.map((value) => Math.min(exact.path.size - 1, Math.floor((value + EXTENT) / cell())));

  /** A square whose area is a probability. */
  function square(x, probability, filled) {
    const c = plane.context;
    const [left, top] = plane.at(centre(x[0]), centre(x[1]));
    const side = 0.94 * (plane.side / exact.path.size) * Math.sqrt(probability);
    c.fillStyle = plane.colour("model");
    c.strokeStyle = plane.colour("truth");
    c.lineWidth = 1.5;
    c.globalAlpha = filled ? 0.35 : 1;
    if (filled) c.fillRect(left - side / 2, top - side / 2, side, side);
    else if (probability > 0) c.strokeRect(left - side / 2, top - side / 2, side, side);
    c.globalAlpha = 1;
  }

  function cells() {
    for (let i = 1; i < exact.path.size; i++) {
      const edge = i * cell() - EXTENT;
      plane.line([edge, -EXTENT, edge, EXTENT], "noise", 1, 0.3);
      plane.line([-EXTENT, edge, EXTENT, edge], "noise", 1, 0.3);
    }
    for (const x of exact.states) {
      const [px, py] = plane.at(centre(x[0]) - cell() / 2, centre(x[1]) + cell() / 2);
      plane.write(name(x), px + 4, py + 14, { colour: "noise" });
    }
  }

  /** Arrows from the watched sequence, as wide as their rates; returns words on them. */
  function rates(t) {
    const x = under();
    const posterior = exact.posterior(x, t);
    if (t === 1) return "At t = 1 nothing jumps any more.";
    if (!posterior) return `The chain is never in ${name(x)} at this time.`;
    const found = exact.path.rate(posterior, x, t);
    const jumps = found.flatMap((row, i) =>
      row.map((rate, token) => ({
        y: x.map((now, j) => (j === i ? token : now)),
        rate,
        beside: 0.18 * (token - 1), // arrows along one line lie side by side
      })),
    );
    const leaving = jumps.filter(({ y, rate }) => name(y) !== name(x) && rate > 1e-9);
    if (!leaving.length) return `Nothing leaves ${name(x)}.`;
    const fastest = Math.max(...leaving.map(({ rate }) => rate));
    for (const { y, rate, beside } of leaving) {
      const [from, to] = [x, y].map((state) => state.map(centre));
      const way = to.map((value, i) => 0.85 * (value - from[i]));
      const start = from.map((value, i) => (way[i] === 0 ? value + beside * cell() : value));
      plane.arrow(...start, ...way, "model", 0.5 + 4 * (rate / fastest), 0.8);
    }
    const most = leaving.find(({ rate }) => rate === fastest);
    return `The fastest jump from ${name(x)} is to ${name(most.y)}, at rate ${fastest.toFixed(1)}.`;
  }

  function sequences(t) {
    const k = Math.min(Math.floor(t * steps + 1e-9), steps - 1);
    const share = t * steps - k;
    const jitter = normal(generator(5), 2 * SEQUENCES);
    ways.forEach((way, i) => {
      const at = ({ x }) => x.map((token, d) => centre(token) + 0.13 * cell() * jitter[2 * i + d]);
      const [from, to] = [at(way[k]), at(way[k + 1])];
      const now = from.map((value, d) => value + share * (to[d] - value));
      const both = way[k + 1].both && share > 0;
      if (share < 1) plane.line([...from, ...now], both ? "data" : "noise", both ? 2 : 1, 0.8);
      plane.points(now, both ? "data" : "noise", both ? 3 : 2, 0.9);
    });
    return ways.filter((way) => way.slice(0, k + 2).some(({ both }) => both)).length;
  }

  figure.draw = () => {
    const { t } = time;
    const done = Math.floor(t * steps + 1e-9);
    const before = done / steps;
    const wanted = exact.lawAt(before);
    plane.clear();
    cells();
    exact.states.forEach((x, s) => {
      square(x, laws[done][s], true);
      square(x, wanted[s], false);
    });
    const diagonal = sequences(t);
    const said = rates(before);
    plane.circle(...watched, 6, "model");

    chart.clear();
    const inside = (pairs) => pairs.map(([n, far]) => [n, Math.max(far, SMALLEST)]);
    if (strength > 0) chart.line(inside(plain), "noise", 1.5, [5, 4]);
    chart.line(inside(corrected), "model", 2);
    const end = totalVariation(laws.at(-1), exact.law);
    chart.dot(cost(steps, strength), Math.max(end, SMALLEST), "model", 5);

    const masked = laws.at(-1).filter((_, s) => name(exact.states[s]).includes("?"));
    const left = masked.reduce((sum, value) => sum + value, 0);
    figure.say(
      `After ${done} of ${counted(steps, "step")} the law of the samples (filled) is ` +
        `${totalVariation(laws[done], wanted).toFixed(3)} from the path's (outlined). It ends ` +
        `${end.toFixed(3)} from the data` +
        (left > 0.005 ? `, with a mask in ${Math.round(100 * left)} % of the sequences. ` : ". ") +
        `Of ${SEQUENCES} sequences ${diagonal} have changed both tokens in one step. ${said}`,
    );
  };

  figure.choice("data", Object.keys(DATA), (value) => ((data = value), begin()));
  figure.choice("noise", Object.keys(NOISE), (value) => ((noise = value), begin()));
  figure.choice("sampler", Object.keys(STEPS), (value) => ((kind = value), begin()));
  figure.slider("steps", { min: 1, max: 32, step: 1, value: steps, show: String }, (value) => {
    steps = value;
    run();
  });
  figure.slider("corrector", { min: 0, max: 12, step: 0.5, value: 0, show: String }, (value) => {
    strength = value;
    correct();
  });
  const time = figure.timeline({ seconds: SECONDS });
  figure.button("New draw", () => {
    seed += 1;
    run();
  });
  plane.handle(
    () => watched,
    (x, y) => {
      watched = [x, y];
      figure.guard(figure.draw);
    },
  );
  figure.guard(begin);
  if (!figure.calm) time.play();
}
