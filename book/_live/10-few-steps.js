// Chapter 10: a student descends a divergence to data with eight modes, both with noise added. The
// arrows are the difference of two exact scores, and all that it learns from. With little noise it
// finds the modes where its samples are; with much noise it feels all of them, and no details.

import { Chart } from "./chart.js";
import { ExactField, ring } from "./exact.js";
import { Figure, counted } from "./figure.js";
import {
  GaussianStudent, PointStudent, divergence, noised, scoreDifference, seeking,
} from "./matching.js";
import { Plane } from "./plane.js";
import { generator, normal } from "./random.js";
import { LINEAR } from "./schedules.js";

const EXTENT = 3.6;
const SAMPLES = 240; // a multiple of 4 times the points
const ARROWS = 60;
const POINTS = 30;
const WIDTH = 0.3; // of the student when it starts
const UPDATES = 300; // until it rests
const SPEED = 40; // updates in a second
const RATE = 0.15;
const [MUCH, LITTLE] = [0.3, 0.95]; // noise, as the time that has as much
const NEAR = 3; // standard deviations of a mode
const DATA = {
  "eight modes": ring(8, 2.2, 0.25),
  "two modes": { weights: [0.5, 0.5], means: [1.6, 0, -1.6, 0], variances: [0.09, 0.09] },
};
const STUDENTS = {
  seeks: "one Gaussian, KL(student‖data)",
  covers: "one Gaussian, KL(data‖student)",
  points: "thirty points, KL(student‖data)",
};
const CIRCLE = Array.from({ length: 40 }, (_, i) => (Math.PI * i) / 20).flatMap((angle) => [
  2 * Math.cos(angle), 2 * Math.sin(angle), // two standard deviations
]);
const NOISE = { stays: "stays as set", falls: "falls as it learns" };

/** Normal points, each turned by all right angles, so that they favour no direction. */
function symmetric(uniform, n) {
  const x = normal(uniform, n / 2);
  const turned = x.map((_, i) => (i % 2 ? x[i - 1] : -x[i + 1]));
  return Float64Array.of(...x, ...turned, ...x.map((v) => -v), ...turned.map((v) => -v));
}

export function start(element) {
  const figure = new Figure(element, "Student, data and noise");
  const plane = new Plane(figure, EXTENT, "A student's samples among the modes of the data.");
  const chart = new Chart(
    figure,
    "The share of the student's samples that lies near each mode of the data.",
    { label: "mode, anticlockwise from the right", from: 0, to: 8 },
    { label: "share of samples", from: 0, to: 1 },
  );
  const uniform = generator(3);
  const z = symmetric(uniform, SAMPLES);
  const noise = symmetric(uniform, SAMPLES);
  const spread = normal(uniform, 2 * POINTS);
  let [kind, target, falls, t] = [STUDENTS.seeks, Object.values(DATA)[0], false, 0.85];
  let place = [0.5, 0.3];
  let student, data, updates, left; // and how many updates are left before it rests

  function begin() {
    data = new ExactField(LINEAR, target);
    const [x, y] = place;
    student =
      kind === STUDENTS.points
        ? new PointStudent(LINEAR, spread.map((value, i) => place[i % 2] + WIDTH * value))
        : new GaussianStudent(LINEAR, [x, y, WIDTH, 0, 0, WIDTH]);
    [updates, left] = [0, UPDATES];
    if (falls) time.set((t = MUCH));
    figure.draw();
  }

  function update() {
    // the curvature falls with the width of the noisy data, and so a step may be longer
    const pace = (RATE * (t * t * target.variances[0] + (1 - t) ** 2)) / (t * t);
    const gradient =
      kind === STUDENTS.covers
        ? student.covering(target, t)
        : seeking(student, data, z, noise, t);
    const each = kind === STUDENTS.points ? POINTS : 1; // every point has its own gradient
    student.weights = student.weights.map((value, i) => value - pace * each * gradient[i]);
    updates += 1;
    left -= 1;
    if (falls) time.set((t = LITTLE - (LITTLE - MUCH) * (left / UPDATES)));
  }

  function play() {
    if (left === 0) {
      if (falls) begin();
      left = UPDATES;
    }
    button.textContent = "Pause";
    let due = 0;
    figure.play((passed) => {
      for (due += SPEED * passed; due >= 1 && left > 0; due -= 1) update();
      figure.draw();
      if (left === 0) stop();
    });
  }

  function stop() {
    figure.pause();
    button.textContent = "Play";
  }

  /** The share of samples near each mode, and near none. */
  function shares(samples) {
    const out = new Float64Array(target.weights.length + 1);
    for (let i = 0; i < samples.length; i += 2) {
      const near = target.variances.findIndex((variance, k) => {
        const [x, y] = [samples[i] - target.means[2 * k], samples[i + 1] - target.means[2 * k + 1]];
        return Math.hypot(x, y) < NEAR * Math.sqrt(variance);
      });
      out[near < 0 ? out.length - 1 : near] += 2 / samples.length;
    }
    return out;
  }

  figure.draw = () => {
    const samples = student.samples(z);
    const noisy = noised(LINEAR, samples, noise, t);
    plane.clear();
    // all is shown as x_t / t, so that modes stay where they are when the noise changes
    plane.density((places) => data.logProb(places.map((value) => t * value), t), "data");
    plane.points(target.means, "data", 3);
    if (kind === STUDENTS.points) {
      plane.points(student.weights, "model", 4);
    } else {
      plane.polygon(student.samples(CIRCLE), "model");
    }
    const shown = noisy.map((value) => value / t).subarray(0, 2 * ARROWS);
    plane.points(shown, "noise", 2, 0.7);
    if (kind !== STUDENTS.covers) {
      const pulls = scoreDifference(student, data, noisy.subarray(0, 2 * ARROWS), t);
      plane.arrows(shown, pulls.map((value) => -value), 0.9, "truth", 0.7);
    }
    plane.circle(...place, 6, "model");

    const found = shares(samples);
    const modes = found.subarray(0, -1);
    chart.x.to = modes.length;
    chart.clear();
    chart.bars([...modes], "model");
    chart.line([[0, 1 / modes.length], [modes.length, 1 / modes.length]], "data", 2, [5, 4]);
    chart.text("the data's share", 0.65 * modes.length, 1 / modes.length + 0.06, "data");
    const met = modes.filter((share) => share > 0.02).length;
    const lost = found.at(-1);
    const away = Math.round(100 * lost);
    const kl = Math.max(0, divergence(student, data, noisy, t));
    const said = [];
    if (kind === STUDENTS.covers) said.push("It is told the mean and covariance of the data alone.");
    if (met === modes.length) {
      said.push(lost > 0.3 ? "It covers them all, and the gaps between." : "The gaps are left out.");
    } else if (met > 0 && lost < 0.2) {
      const price = Math.log(modes.length / met).toFixed(2);
      said.push("No sample lies near the rest, so none is pulled there.");
      said.push(`Equal shares of ${counted(met, "mode")} have ${price}.`);
    }
    figure.say(
      `t = ${t.toFixed(2)}, after ${counted(updates, "update")}: with this noise ` +
        `KL(student‖data) = ${kl.toFixed(2)}. Samples are near ${met} of ${modes.length} modes; ` +
        `${away} % are near none. ${said.join(" ")}`,
    );
  };

  const anew = (change) => (value) => {
    change(value);
    begin();
  };
  figure.choice("student", Object.values(STUDENTS), anew((name) => (kind = name)));
  figure.choice("data", Object.keys(DATA), anew((name) => (target = DATA[name])));
  figure.choice("noise", Object.values(NOISE), anew((name) => (falls = name === NOISE.falls)));
  const time = figure.slider(
    "time t",
    { min: MUCH, max: LITTLE, step: 0.01, value: t },
    (value) => {
      t = value;
      left = falls ? Math.round((UPDATES * (LITTLE - t)) / (LITTLE - MUCH)) : UPDATES;
      figure.draw();
    },
  );
  const button = figure.button("Play", () => (figure.playing ? stop() : play()));
  figure.button("Start again", begin);
  plane.handle(
    () => place,
    (x, y) => {
      place = [x, y];
      figure.guard(begin);
    },
  );
  figure.guard(begin);
  if (!figure.calm) play();
}
