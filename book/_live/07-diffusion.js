// Chapter 7: more noise makes every path wilder and leaves the densities as they are, as long as
// the score pulls back by the right amount.

import { Chart, histogram } from "./chart.js";
import { sdeStep } from "./diffusion.js";
import { ExactField, ring } from "./exact.js";
import { Figure } from "./figure.js";
import { Plane } from "./plane.js";
import { generator, normal } from "./random.js";
import { LINEAR } from "./schedules.js";
import { grid } from "./solvers.js";

const EXTENT = 3.6;
const PARTICLES = 500;
const JOURNEYS = 4; // from one start
const STEPS = 150;
const SECONDS = 4;
const BINS = 36;
const TARGET = ring(6, 2.1, 0.3);
const PULLS = { "right: w²/2 times the score": 1, "none: score forgotten": 0, "twice too much": 2 };

/** The density of the first coordinate of x_t. */
export function marginal(target, schedule, x, t) {
  let density = 0;
  target.weights.forEach((weight, k) => {
    const variance = schedule.alpha(t) ** 2 * target.variances[k] + schedule.sigma(t) ** 2;
    const off = x - schedule.alpha(t) * target.means[2 * k];
    density += (weight * Math.exp(-(off * off) / (2 * variance))) / Math.sqrt(2 * Math.PI * variance);
  });
  return density;
}

export function start(element) {
  const figure = new Figure(element, "Noise level, pull and time");
  const plane = new Plane(figure, EXTENT, "Points on their way from noise to six modes.");
  const chart = new Chart(
    figure,
    "Histogram of the first coordinate, with its exact density.",
    { label: "first coordinate", from: -EXTENT, to: EXTENT },
    { label: "density", from: 0, to: 0.6 },
  );
  const field = new ExactField(LINEAR, TARGET).velocity;
  let [level, pull, seed] = [1, 1, 3];
  let begins = [0.4, 0.3];
  const times = grid(STEPS);
  let [noises, crowd, journeys] = [[], [], []]; // at each of the times

  const ofJourneys = (values) => values.subarray(0, 2 * JOURNEYS);
  const ofCrowd = (values) => values.subarray(2 * JOURNEYS);

  function newNoise() {
    const uniform = generator(seed);
    noises = Array.from(times, () => normal(uniform, 2 * (JOURNEYS + PARTICLES)));
  }

  function walk(part) {
    const states = [part(noises[0])];
    for (let i = 0; i < STEPS; i++) {
      const [h, noise] = [times[i + 1] - times[i], part(noises[i + 1])];
      states.push(sdeStep(field, LINEAR, states[i], times[i], h, level, noise, pull));
    }
    return states;
  }

  /** Only the journeys begin where the reader says. */
  function runJourneys() {
    for (let i = 0; i < JOURNEYS; i++) noises[0].set(begins, 2 * i);
    journeys = walk(ofJourneys);
    figure.draw();
  }

  function run() {
    crowd = walk(ofCrowd);
    runJourneys();
  }

  figure.draw = () => {
    const { t } = time;
    const index = Math.round(t * STEPS);
    const here = crowd[index];
    plane.clear();
    plane.points(here, "noise", 2, 0.6);
    for (let i = 0; i < JOURNEYS; i++) {
      plane.way(journeys.slice(0, index + 1), i, "model", 1.8, 0.9);
    }
    plane.points(journeys[index], "model", 4);
    plane.circle(...begins, 6, "data");
    chart.clear();
    chart.bars(histogram(here.filter((_, i) => i % 2 === 0), chart.x, BINS), "noise");
    const curve = Array.from({ length: 121 }, (_, i) => {
      const x = EXTENT * (i / 60 - 1);
      return [x, marginal(TARGET, LINEAR, x, t)];
    });
    chart.line(curve, "data", 2);
    chart.text("the crowd", -EXTENT, 0.57, "noise");
    chart.text("exact density", -EXTENT, 0.51, "data");
    const spread = Math.sqrt(here.reduce((sum, value) => sum + value * value, 0) / here.length);
    const square = TARGET.means.reduce((sum, mean) => sum + mean * mean, 0) / 12;
    const right = Math.sqrt(t * t * (square + TARGET.variances[0]) + (1 - t) ** 2);
    figure.say(
      `t = ${t.toFixed(2)}, noise level w = ${level.toFixed(1)}. The crowd's spread is ` +
        `${spread.toFixed(2)}, the exact one ${right.toFixed(2)}. ` +
        (level === 0
          ? "Without noise, one start has one journey."
          : `The ${JOURNEYS} journeys from your start go different ways.`),
    );
  };

  figure.slider(
    "noise level w",
    { min: 0, max: 4, step: 0.1, value: level, show: (v) => v.toFixed(1) },
    (value) => {
      level = value;
      run();
    },
  );
  figure.choice("pull", Object.keys(PULLS), (name) => {
    pull = PULLS[name];
    run();
  });
  const time = figure.timeline({ seconds: SECONDS });
  figure.button("New noise", () => {
    seed += 1;
    newNoise();
    run();
  });
  plane.handle(
    () => begins,
    (x, y) => {
      begins = [x, y];
      figure.guard(runJourneys);
    },
  );

  if (figure.calm) time.set(1);
  newNoise();
  run();
  if (!figure.calm) time.play();
}
