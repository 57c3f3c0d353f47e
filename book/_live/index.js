// The front page: noise becomes a ring, two moons or what the reader draws, along the exact field.

import { ExactField, points, ring } from "./exact.js";
import { Figure } from "./figure.js";
import { Plane } from "./plane.js";
import { generator, normal } from "./random.js";
import { LINEAR } from "./schedules.js";
import { STEPS, grid, solve } from "./solvers.js";

const EXTENT = 3;
const PARTICLES = 500;
const WIDTH = 0.12; // standard deviation around each drawn point
const SECONDS = 3; // from noise to data
const MOST = 200; // drawn points
const PHRASES = { "what I draw": "your drawing" };

/** A target whose components are drawn points, a little blurred. */
function blurred(means) {
  const target = points(Float64Array.from(means));
  target.variances.fill(WIDTH * WIDTH);
  return target;
}

function moons() {
  const means = [];
  for (let i = 0; i < 20; i++) {
    const angle = (Math.PI * (i + 0.5)) / 20;
    means.push(1.3 * Math.cos(angle) - 0.65, 1.3 * Math.sin(angle) - 0.3);
    means.push(0.65 - 1.3 * Math.cos(angle), 0.3 - 1.3 * Math.sin(angle));
  }
  return blurred(means);
}

export function start(element) {
  const figure = new Figure(element, "Data, time, solver and steps");
  const plane = new Plane(figure, EXTENT, "Points of noise that move to the data.");
  const shapes = { "a ring": ring(11, 2.1, 0.15), "two moons": moons(), "what I draw": null };
  let shape = "a ring";
  let drawing = [];
  let [step, steps, t] = ["heun", 20, 0];
  let states = [];
  let seed = 1;

  const target = () => shapes[shape] ?? (drawing.length ? blurred(drawing) : null);

  function run() {
    const noise = normal(generator(seed), 2 * PARTICLES);
    states = target()
      ? solve(new ExactField(LINEAR, target()).velocity, noise, grid(steps), STEPS[step])
      : [noise];
    figure.draw();
  }

  figure.draw = () => {
    plane.clear();
    const goal = target();
    if (goal) plane.points(goal.means, "data", 2.5, 0.35);
    const place = Math.min(t, 1) * (states.length - 1);
    const before = Math.min(Math.floor(place), Math.max(states.length - 2, 0));
    const share = states.length > 1 ? place - before : 0;
    const next = states[Math.min(before + 1, states.length - 1)];
    const now = states[before].map((value, i) => value + share * (next[i] - value));
    for (let i = 0; i < 60; i++) {
      const way = states.slice(0, before + 1).flatMap((s) => [s[2 * i], s[2 * i + 1]]);
      plane.line([...way, now[2 * i], now[2 * i + 1]], "model", 0.8, 0.35);
    }
    plane.points(now, t < 1 ? "noise" : "model", 2);
    if (!goal) {
      figure.say("Draw with the pointer: the points that you draw become the data.");
    } else {
      const cost = { euler: 1, midpoint: 2, heun: 2, rk4: 4 }[step] * steps;
      figure.say(
        `${PARTICLES} points of noise follow the exact field of ${PHRASES[shape] ?? shape} to t = ${t.toFixed(2)}, ` +
          `in ${steps} steps of ${step}: ${cost} evaluations of the field for the whole way.`,
      );
    }
  };

  const again = () => figure.guard(run);
  const data = figure.choice("data", Object.keys(shapes), (name) => {
    shape = name;
    again();
    begin();
  });
  const time = figure.slider("time t", { min: 0, max: 1, step: 0.01, value: 0 }, (value) => {
    stop();
    t = value;
    figure.draw();
  });
  const solver = figure.choice("solver", Object.keys(STEPS), (name) => {
    step = name;
    again();
  });
  solver.value = step;
  figure.slider("steps", { min: 1, max: 50, step: 1, value: steps, show: String }, (value) => {
    steps = value;
    again();
  });

  const play = figure.button("Play", () => (figure.playing ? stop() : begin()));
  figure.button("New noise", () => {
    seed += 1;
    again();
    begin();
  });

  function stop() {
    figure.pause();
    play.textContent = "Play";
  }

  function begin() {
    if (t >= 1) t = 0;
    play.textContent = "Pause";
    figure.play((passed) => {
      t = Math.min(1, t + passed / SECONDS);
      time.set(t);
      figure.draw();
      if (t === 1) stop();
    });
  }

  function draw(x, y) {
    stop();
    if (shape !== "what I draw") {
      shape = data.value = "what I draw";
      drawing = [];
    }
    t = 0;
    const far = Math.hypot(x - drawing.at(-2), y - drawing.at(-1));
    if (drawing.length === 0 || far > WIDTH) drawing.push(x, y);
    if (drawing.length > 2 * MOST) drawing.splice(0, 2);
    states = [normal(generator(seed), 2 * PARTICLES)];
    figure.draw();
  }

  // a finger or a mouse draws a line; arrow keys draw one from the last point
  plane.handle(() => (drawing.length ? drawing.slice(-2) : [0, 0]), draw);
  plane.canvas.addEventListener("pointerdown", () => (drawing = []), true);
  const flow = () => {
    again();
    begin();
  };
  plane.canvas.addEventListener("pointerup", flow);
  plane.canvas.addEventListener("keyup", (event) => {
    if (event.key.startsWith("Arrow")) flow();
  });

  run();
  if (!figure.calm) begin();
}
