// Chapter 8: samples that follow guidance towards one of three overlapping classes, over the
// density p(x) p(class | x)^s that one may think they have.

import { ExactField } from "./exact.js";
import { Figure } from "./figure.js";
import { guided, sharpened, summary } from "./guidance.js";
import { Plane } from "./plane.js";
import { generator, normal } from "./random.js";
import { LINEAR } from "./schedules.js";
import { grid, heun, solve } from "./solvers.js";

const EXTENT = 4;
const PARTICLES = 500;
const STEPS = 40;
const STD = 0.75;
const CLASSES = ["above", "left", "right"];
const MEANS = Float64Array.of(0, 1.1, -0.95, -0.55, 0.95, -0.55);
const OVERVIEW = 60; // cells a side of the grid on which the density is averaged

/** The classes as one target, or one of them alone. */
function target(k) {
  const only = k === undefined ? [0, 1, 2] : [k];
  return {
    weights: new Float64Array(only.length).fill(1 / only.length),
    means: Float64Array.from(only.flatMap((i) => [MEANS[2 * i], MEANS[2 * i + 1]])),
    variances: new Float64Array(only.length).fill(STD * STD),
  };
}

export function start(element) {
  const figure = new Figure(element, "Class, guidance scale and time");
  const plane = new Plane(figure, EXTENT, "Guided samples over the sharpened density of a class.");
  const free = new ExactField(LINEAR, target());
  let [label, scale, t, seed] = [0, 2, 1, 1];
  let begins = Float64Array.of(0.2, -0.4);
  let states = [];
  let way = [];
  const labelled = () => new ExactField(LINEAR, target(label));

  function run() {
    const field = guided(free.velocity, labelled().velocity, scale);
    const noise = normal(generator(seed), 2 * PARTICLES);
    states = solve(field, noise, grid(STEPS), heun);
    way = solve(field, begins, grid(STEPS), heun);
    figure.draw();
  }

  figure.draw = () => {
    const index = Math.round(t * STEPS);
    const density = (places) =>
      sharpened(free.logProb(places, 1), labelled().logProb(places, 1), scale);
    plane.clear();
    plane.density(density, "data");
    plane.points(states[index], t < 1 ? "noise" : "model", 2, 0.8);
    plane.way(way.slice(0, index + 1), 0, "truth", 2, 0.9);
    plane.circle(...begins, 6, "truth");
    const places = plane.grid(OVERVIEW);
    const logs = density(places);
    const most = logs.reduce((a, b) => Math.max(a, b));
    const wanted = summary(places, (i) => Math.exp(logs[i] - most));
    const found = summary(states.at(-1));
    const off = Math.hypot(found.mean[0] - wanted.mean[0], found.mean[1] - wanted.mean[1]);
    figure.say(
      `Scale ${scale.toFixed(1)}: at t = 1 the samples have a spread of ` +
        `${found.spread.toFixed(2)}, the shaded density p(x) p(${CLASSES[label]} | x)ˢ has ` +
        `${wanted.spread.toFixed(2)}; their means are ${off.toFixed(2)} apart. ` +
        (found.spread < wanted.spread - 0.01 ? "Guidance narrows the samples more than that. " : "") +
        "The line leads from the start that you move.",
    );
  };

  figure.choice("class", CLASSES, (name) => {
    label = CLASSES.indexOf(name);
    run();
  });
  figure.slider(
    "scale s",
    { min: 0, max: 6, step: 0.1, value: scale, show: (v) => v.toFixed(1) },
    (value) => {
      scale = value;
      run();
    },
  );
  figure.slider("time t", { min: 0, max: 1, step: 1 / STEPS, value: t }, (value) => {
    t = value;
    figure.draw();
  });
  figure.button("New noise", () => {
    seed += 1;
    run();
  });
  plane.handle(
    () => begins,
    (x, y) => {
      begins = Float64Array.of(x, y);
      figure.guard(run);
    },
  );
  figure.guard(run);
}
