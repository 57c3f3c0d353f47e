// Chapter 4: which noise travels to which data point. Pairs at random, of least cost, or made from
// Sinkhorn's plan in three ways, of which only one uses every noise point once.

import {
  argmax, assignment, drawn, nearestPermutation, sinkhornLog, squaredDistances, wrongRows,
} from "./couplings.js";
import { ring } from "./exact.js";
import { Figure, counted } from "./figure.js";
import { Matrix } from "./matrix.js";
import { Plane } from "./plane.js";
import { generator, normal, sample } from "./random.js";

const EXTENT = 3;
const COUNT = 24;
const DATA = ring(6, 2.1, 0.2);
const ITERATIONS = [1, 2, 3, 5, 10, 20, 50, 100, 200];
const WAYS = {
  argmax: "Sinkhorn, argmax",
  draws: "Sinkhorn, draws",
  permutation: "Sinkhorn, nearest permutation",
  exact: "exact",
  random: "at random",
};

/** Points in the order of their angle, so that neighbours are neighbours in the matrix too. */
function sorted(x) {
  const places = Array.from({ length: COUNT }, (_, i) => [x[2 * i], x[2 * i + 1]]);
  places.sort((a, b) => Math.atan2(a[1], a[0]) - Math.atan2(b[1], b[0]));
  return Float64Array.from(places.flat());
}

/** A random order of the numbers below n. */
function shuffled(uniform, n) {
  const keys = Array.from({ length: n }, uniform);
  return Int32Array.from(keys.keys()).sort((a, b) => keys[a] - keys[b]);
}

/** Pairs [noise, data] from the noise of each data point. */
const asPairs = (order) => Array.from(order, (i, j) => [i, j]);

/** How often each of n numbers is used. */
function uses(used, n) {
  const counts = new Int32Array(n);
  for (const i of used) counts[i] += 1;
  return counts;
}

export function start(element) {
  const figure = new Figure(element, "Pairs, regularisation, iterations and data point");
  const plane = new Plane(figure, EXTENT, "Noise in the middle, data around it, and their pairs.");
  const matrix = new Matrix(figure, "The plan, noise by data, with the sums of rows and columns.");
  let [way, relative, iterations, chosen, seed] = [WAYS.argmax, 0.05, 10, 3, 1];
  let x0, x1, uniforms, order; // the batch, and the chance in draws and in random pairs
  let cost, plan, pairs, found;

  function draw() {
    const uniform = generator(seed);
    x0 = sorted(normal(uniform, 2 * COUNT));
    x1 = sorted(sample(DATA, uniform, COUNT));
    uniforms = Float64Array.from({ length: COUNT }, uniform);
    order = shuffled(uniform, COUNT);
    run();
  }

  function run() {
    cost = squaredDistances(x0, x1);
    const mean = cost.reduce((sum, row) => sum + row.reduce((a, b) => a + b), 0) / COUNT ** 2;
    const scaled = cost.map((row) => row.map((value) => value / mean));
    const entropic = sinkhornLog(scaled, relative, iterations);
    const best = asPairs(assignment(cost));
    found = {
      [WAYS.argmax]: asPairs(argmax(entropic)),
      [WAYS.draws]: drawn(entropic, uniforms),
      [WAYS.permutation]: asPairs(nearestPermutation(entropic)),
      [WAYS.exact]: best,
      [WAYS.random]: asPairs(order),
    };
    pairs = found[way];
    plan = entropic;
    if (!sinkhorn()) {
      plan = cost.map(() => new Float64Array(COUNT));
      for (const [i, j] of pairs) plan[i][j] = 1 / COUNT;
    }
    figure.draw();
    const price = (some) => some.reduce((sum, [i, j]) => sum + cost[i][j], 0) / COUNT;
    const never = (name) => uses(found[name].map(([i]) => i), COUNT).filter((n) => n === 0).length;
    const percent = 100 * wrongRows(plan);
    const wrong = percent < 0.01 ? "less than 0.01" : Number(percent.toPrecision(2));
    figure.say(
      `Mean squared distance of the pairs: ${price(pairs).toFixed(2)}; exact ` +
        `${price(best).toFixed(2)}, random ${mean.toFixed(2)} on average. ` +
        (sinkhorn()
          ? `Of ${COUNT} noise points argmax never uses ${never(WAYS.argmax)}, these draws ` +
            `${never(WAYS.draws)}, the permutation ${never(WAYS.permutation)}. After ` +
            `${counted(iterations, "iteration")} ${wrong} % of the plan's mass is in the wrong rows.`
          : "Each noise point and each data point is used once."),
    );
  }

  const sinkhorn = () => way.startsWith("Sinkhorn");

  figure.draw = () => {
    plane.clear();
    const place = (x, i) => [x[2 * i], x[2 * i + 1]];
    for (let i = 0; i < COUNT; i++) {
      const share = COUNT * plan[i][chosen];
      if (share > 0.02) {
        plane.line([...place(x0, i), ...place(x1, chosen)], "data", 1 + 6 * share, 0.35);
      }
    }
    for (const [i, j] of pairs) plane.line([...place(x0, i), ...place(x1, j)], "model", 1.5, 0.8);
    for (const [x, side, colour] of [[x0, 0, "noise"], [x1, 1, "data"]]) {
      uses(pairs.map((pair) => pair[side]), COUNT).forEach((count, i) => {
        // a ring is never used, a larger dot more than once
        if (count === 0) plane.circle(...place(x, i), 4, colour);
        else plane.points(place(x, i), colour, 2 + 2 * count, 1);
      });
    }
    plane.circle(...place(x1, chosen), 10, "truth");
    matrix.show(plan, pairs, chosen);
  };

  const again = (change) => (value) => {
    change(value);
    run();
  };
  figure.choice("pairs", Object.values(WAYS), again((name) => {
    way = name;
    // these two say nothing of exact and random pairs
    rho.input.disabled = count.input.disabled = !sinkhorn();
  }));
  const rho = figure.slider(
    "ρ / mean cost",
    { min: -2.5, max: 1, step: 0.1, value: Math.log10(relative), show: (v) => (10 ** v).toPrecision(2) },
    again((value) => (relative = 10 ** value)),
  );
  const count = figure.slider(
    "iterations",
    {
      min: 0,
      max: ITERATIONS.length - 1,
      step: 1,
      value: ITERATIONS.indexOf(iterations),
      show: (k) => `${ITERATIONS[k]}`,
    },
    again((k) => (iterations = ITERATIONS[k])),
  );
  const point = figure.slider(
    "data point",
    { min: 1, max: COUNT, step: 1, value: chosen + 1, show: String },
    (number) => {
      chosen = number - 1;
      figure.draw();
    },
  );
  figure.button("New batch", () => {
    seed += 1;
    draw();
  });

  // a pointer takes the nearest data point; arrow keys move the one that is chosen
  plane.canvas.addEventListener("pointerdown", (event) => {
    const [x, y] = plane.under(event);
    const far = (j) => Math.hypot(x1[2 * j] - x, x1[2 * j + 1] - y);
    for (let j = 0; j < COUNT; j++) if (far(j) < far(chosen)) chosen = j;
    point.set(chosen + 1);
  });
  plane.handle(
    () => x1.slice(2 * chosen, 2 * chosen + 2),
    (x, y) => {
      x1.set([x, y], 2 * chosen);
      figure.guard(run);
    },
  );
  figure.guard(draw);
}
