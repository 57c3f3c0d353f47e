// Chapter 6: position against time, as in Figure 6.1. Lines of random pairs cross; the flow of
// their field does not, and bends; the lines to its ends are those of round two. At a place that
// the reader moves, the tangent is the velocity and the chord the mean velocity. On the line all
// of this is known exactly, the field of round two too: nothing is trained.

import { Chart, histogram } from "./chart.js";
import { ExactField } from "./exact.js";
import { Figure, counted } from "./figure.js";
import { Plane } from "./plane.js";
import { generator, normal, sample } from "./random.js";
import {
  crossings, flowMap, meanVelocity, observeLine, quantile, straightVelocity,
} from "./reflow.js";
import { LINEAR } from "./schedules.js";
import { euler, grid, solve } from "./solvers.js";

const EXTENT = 3.6;
const WIDE = 0.75; // of the picture; densities stand left and right of it
const COUNT = 14; // pairs
const SAMPLES = 100; // of a histogram
const BINS = 37; // an odd number, so that the middle of the data is not on an edge
const LATEST = 0.98; // of the handle
const CLUMPS = { weights: [0.5, 0.5], means: [-2, 2], variances: [0.04, 0.04] };
/** The clumps on an axis of the plane. Their variances are the same, so what is across cancels. */
const IN_PLANE = { ...CLUMPS, means: onAxis(CLUMPS.means) };
const STAGES = {
  lines: "lines of random pairs",
  flow: "the flow of round one",
  straight: "new lines, round two",
};

/** Points of an axis of the plane, and back. */
function onAxis(numbers) {
  return Float64Array.from(Array.from(numbers).flatMap((x) => [x, 0]));
}
const fromAxis = (x) => x.filter((_, i) => i % 2 === 0);

const FIELDS = {
  one: new ExactField(LINEAR, IN_PLANE).velocity,
  two: (x, t) => onAxis(fromAxis(x).map((place) => straightVelocity(CLUMPS, place, t))),
};
const NOISE = Float64Array.from({ length: SAMPLES }, (_, i) => quantile(CLUMPS, (i + 0.5) / SAMPLES, 0));
const ENDS = NOISE.map((x) => flowMap(CLUMPS, x, 0, 1));

/** Wasserstein distance of as many points as ENDS to them: on the line, that of the sorted ones. */
function distance(x) {
  return Math.sqrt(x.slice().sort().reduce((sum, v, i) => sum + (v - ENDS[i]) ** 2, 0) / SAMPLES);
}

export function start(element) {
  const figure = new Figure(element, "Paths, interval and steps");
  const plane = new Plane(figure, EXTENT, "Position against time, from noise to two clumps.");
  const chart = new Chart(
    figure,
    "Where Euler steps of round one and of round two end, beside the density of the data.",
    { label: "position at t = 1", from: -EXTENT, to: EXTENT },
    { label: "density", from: 0, to: 2 },
  );
  let [stage, steps, seed] = [STAGES.lines, 1, 2];
  let [s, x, t] = [0.1, 0.8, 0.9]; // a place at time s, and the end of the interval
  let x0, x1, ends;
  const tries = {}; // the samples of both fields, by steps

  /** Times are across, positions upwards. */
  const across = (time) => EXTENT * WIDE * (2 * time - 1);

  function draw() {
    const uniform = generator(seed);
    x0 = normal(uniform, COUNT);
    x1 = fromAxis(sample(IN_PLANE, uniform, COUNT));
    ends = x0.map((place) => flowMap(CLUMPS, place, 0, 1));
    run();
  }

  function run() {
    tries[steps] ??= Object.values(FIELDS).map((field) =>
      fromAxis(solve(field, onAxis(NOISE), grid(steps), euler).at(-1)),
    );
    figure.draw();
  }

  /** Where a particle of the stage is at a time, from its pair and its noise. */
  function position(i, time) {
    if (stage === STAGES.flow) return flowMap(CLUMPS, x0[i], 0, time);
    return (1 - time) * x0[i] + time * (stage === STAGES.lines ? x1 : ends)[i];
  }

  function write(words, time, place, align) {
    const [px, py] = plane.at(across(time), place);
    plane.write(words, px, py - 6, { align });
  }

  figure.draw = () => {
    const way = (f) => Array.from(grid(40)).flatMap((time) => [across(time), f(time)]);
    plane.clear();
    for (const [time, side, colour] of [[0, -1, "noise"], [1, 1, "data"]]) {
      const places = Array.from(grid(120, -EXTENT, EXTENT));
      const outline = places.flatMap((place) => {
        const { density } = observeLine(CLUMPS, place, time);
        return [across(time) + side * 0.8 * density, place];
      });
      plane.polygon([across(time), -EXTENT, ...outline, across(time), EXTENT], colour);
    }
    write(" noise, t = 0", 0, -EXTENT, "left");
    write("data, t = 1 ", 1, -EXTENT, "right");
    const paths = stage === STAGES.lines ? "noise" : "model";
    for (let i = 0; i < COUNT; i++) {
      plane.line(way((time) => position(i, time)), paths, 1.3, 0.7);
      plane.points([across(s), position(i, s)], paths, 3);
    }
    plane.line([across(s), -EXTENT, across(s), EXTENT], "truth", 0.7, 0.3);
    const straight = stage === STAGES.straight;
    const v = straight ? straightVelocity(CLUMPS, x, s) : FIELDS.one([x, 0], s)[0];
    // the way through the place of the reader
    const through = (time) => (straight ? x + (time - s) * v : flowMap(CLUMPS, x, s, time));
    const chord = straight || t === s ? v : meanVelocity(CLUMPS, x, s, t);
    plane.line(way(through), "data", 1.5, 0.6);
    const long = across(t) - across(s);
    plane.arrow(across(s), x, long, (t - s) * v, "truth", 2);
    plane.arrow(across(s), x, long, (t - s) * chord, "data", 2.5);
    plane.circle(across(s), x, 7, "data");
    write(straight ? "" : "tangent", t, x + (t - s) * v, "right");
    write(straight ? "tangent = chord" : "chord", t, x + (t - s) * chord, "right");
    chart.clear();
    const [one, two] = tries[steps];
    chart.bars(histogram(one, chart.x, BINS), "noise");
    chart.bars(histogram(two, chart.x, BINS), "model");
    chart.line(
      Array.from(grid(200, -EXTENT, EXTENT), (place) => [place, observeLine(CLUMPS, place, 1).density]),
      "data",
      2,
    );
    chart.text("round one", -EXTENT, 1.95, "noise");
    chart.text("round two", -EXTENT, 1.75, "model");
    chart.text("data", -EXTENT, 1.55, "data");
    const pairs = (COUNT * (COUNT - 1)) / 2;
    const met = `${crossings(x0, stage === STAGES.lines ? x1 : ends)} of ${pairs} pairs of`;
    const seen = {
      [STAGES.lines]: `${met} lines cross.`,
      [STAGES.flow]: `${met} paths cross, but they bend.`,
      [STAGES.straight]: `${met} new lines cross.`,
    };
    figure.say(
      `${seen[stage]} From s = ${s.toFixed(2)} to t = ${t.toFixed(2)}: tangent ${v.toFixed(2)}, ` +
        `chord ${chord.toFixed(2)}; an Euler step misses by ` +
        `${Math.abs((t - s) * (v - chord)).toFixed(2)}. In ${counted(steps, "step")} ` +
        `from noise, round one ends ${distance(one).toFixed(2)} from the data, round two ` +
        `${distance(two).toFixed(2)}.`,
    );
  };

  figure.choice("paths", Object.values(STAGES), (name) => {
    stage = name;
    figure.draw();
  });
  const interval = figure.slider("end t", { min: 0.02, max: 1, step: 0.01, value: t }, (value) => {
    t = Math.max(value, s);
    interval.set(t);
    figure.draw();
  });
  figure.slider("Euler steps", { min: 1, max: 8, step: 1, value: steps, show: String }, (value) => {
    steps = value;
    run();
  });
  figure.button("New pairs", () => {
    seed += 1;
    draw();
  });
  plane.handle(
    () => [across(s), x],
    (newTime, newX) => {
      s = Math.max(0, Math.min(LATEST, (newTime / (EXTENT * WIDE) + 1) / 2));
      x = newX;
      if (t < s) interval.set((t = s));
      figure.guard(figure.draw);
    },
  );
  figure.guard(draw);
}
