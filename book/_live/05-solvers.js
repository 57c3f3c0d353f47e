// Chapter 5: one field, a solver, a number of evaluations. Each try leaves a dot in the chart of
// error against evaluations; one start is the reader's, with the solver's steps beside the exact
// way. A sampler may also be run backwards, or be reversed twice.

import { Chart } from "./chart.js";
import { ExactField, ring } from "./exact.js";
import { Figure, counted } from "./figure.js";
import { Plane } from "./plane.js";
import { generator, normal, sample } from "./random.js";
import { COSINE, LINEAR } from "./schedules.js";
import { COSTS, STEPS, grid, rk4, solve } from "./solvers.js";

const EXTENT = 3.2;
const PARTICLES = 120;
const FINE = 400; // steps of rk4 for the solution that errors are measured against
const COLOURS = { euler: "noise", midpoint: "data", heun: "model", rk4: "truth" };
const TARGET = ring(6, 2.1, 0.1);
const GRIDS = {
  even: (n) => grid(n),
  "finer towards data": (n) => grid(n).map((s) => 1 - (1 - s) ** 2),
};
const DIRECTIONS = ["noise to data", "data to noise", "reversed twice"];

/** Root mean square distance of two sets of points. */
export function distance(x, y) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += (x[i] - y[i]) ** 2;
  return Math.sqrt((2 * sum) / x.length);
}

export function start(element) {
  const figure = new Figure(element, "Solver, evaluations, grid, schedule and direction");
  const plane = new Plane(figure, EXTENT, "Trajectories of a solver between noise and six modes.");
  const chart = new Chart(
    figure,
    "Error against evaluations; one dot for each try.",
    { label: "evaluations of the field", from: 1, to: 200, log: true },
    { label: "error", from: 1e-5, to: 10, log: true },
  );
  let [name, budget, gridName, direction] = ["euler", 8, "even", DIRECTIONS[0]];
  let schedule = LINEAR;
  const noise = normal(generator(5), 2 * PARTICLES);
  const data = sample(TARGET, generator(6), PARTICLES);
  const exactEnds = new Map(); // by schedule and direction
  let tries = [];
  let states = [];
  let probe = Float64Array.of(-0.8, 1.4); // one start that the reader moves
  let ways = { solver: [], exact: [] };

  function ends(field) {
    const key = `${schedule.name} ${direction}`;
    if (!exactEnds.has(key)) {
      const back = direction === DIRECTIONS[1];
      const from = back ? data : noise;
      exactEnds.set(key, solve(field, from, back ? grid(FINE, 1, 0) : grid(FINE), rk4).at(-1));
    }
    return exactEnds.get(key);
  }

  function run() {
    const field = new ExactField(schedule, TARGET).velocity;
    const steps = Math.max(1, Math.floor(budget / COSTS[name]));
    let times = GRIDS[gridName](steps);
    if (direction !== DIRECTIONS[0]) times = times.reverse();
    // a decreasing grid turns the steps around already; a minus sign turns them back
    const minus = (x, t) => field(x, t).map((value) => -value);
    const twice = direction === DIRECTIONS[2];
    const from = direction === DIRECTIONS[1] ? data : noise;
    const followed = twice ? minus : field;
    states = solve(followed, from, times, STEPS[name]);
    const back = direction === DIRECTIONS[1];
    ways = {
      solver: solve(followed, probe, times, STEPS[name]),
      exact: solve(field, probe, back ? grid(FINE, 1, 0) : grid(FINE), rk4),
    };
    const error = distance(states.at(-1), ends(field));
    const evaluations = steps * COSTS[name];
    const known = tries.some(([n, e, method]) => n === evaluations && e === error && method === name);
    if (Number.isFinite(error) && !known) tries.push([evaluations, error, name]);
    if (tries.length > 200) tries.shift();
    figure.draw();
    const wrong = "The minus sign undoes the decreasing grid: the points run away from the data. ";
    figure.say(
      `${counted(steps, "step")} of ${name}, ${evaluations} evaluations: on average a point ends ` +
        `${error.toPrecision(2)} from where the exact solution ends. ${twice ? wrong : ""}` +
        "Orange: the steps from your start; the line beside them is the exact solution.",
    );
  }

  figure.draw = () => {
    plane.clear();
    plane.points(TARGET.means, "data", 5, 0.5);
    for (let i = 0; i < PARTICLES; i++) {
      plane.way(states, i, "model", 0.8, 0.4);
    }
    plane.way(ways.exact, 0, "truth", 2, 0.9);
    plane.way(ways.solver, 0, "data", 2, 0.9);
    for (const state of ways.solver) plane.points(state, "data", 3);
    plane.circle(...probe, 7, "data");
    plane.points(states[0], "noise", 2);
    plane.points(states.at(-1), "model", 2.5);
    chart.clear();
    for (const [evaluations, error, method] of tries) {
      chart.dot(evaluations, Math.max(error, chart.y.from), COLOURS[method]);
    }
    Object.entries(COLOURS).forEach(([method, colour], i) => {
      chart.text(method, 1.1, 10 ** (-2 - 0.7 * i), colour);
    });
  };

  plane.handle(
    () => probe,
    (x, y) => {
      probe = Float64Array.of(x, y);
      figure.guard(run);
    },
  );
  const again = (change) => (value) => {
    change(value);
    run();
  };
  figure.choice("solver", Object.keys(STEPS), again((value) => (name = value)));
  figure.slider(
    "evaluations",
    { min: 4, max: 128, step: 4, value: budget, show: String },
    again((value) => (budget = value)),
  );
  figure.choice("grid", Object.keys(GRIDS), again((value) => (gridName = value)));
  figure.choice(
    "schedule",
    ["linear", "cosine"],
    again((value) => {
      schedule = value === "linear" ? LINEAR : COSINE;
      tries = [];
    }),
  );
  figure.choice(
    "direction",
    DIRECTIONS,
    again((value) => {
      direction = value;
      tries = [];
    }),
  );
  figure.button("Try 4 to 128 evaluations", () => {
    const kept = budget;
    for (budget = 4; budget <= 128; budget *= 2) run();
    budget = kept;
  });
  figure.guard(run);
}
