// The front page: noise becomes a ring, two moons or what the reader draws, along the exact field.

import { ExactField, moons, points, ring } from "./exact.js";
import { Figure, counted } from "./figure.js";
import { Plane } from "./plane.js";
import { generator, normal } from "./random.js";
import { LINEAR } from "./schedules.js";
import { COSTS, STEPS, grid, solve } from "./solvers.js";

const EXTENT = 3;
const PARTICLES = 500;
const WIDTH = 0.12; // standard deviation around each drawn point
const SECONDS = 3; // from noise to data
const MOST = 200; // drawn points
const PHRASES = { "what I draw": "your drawing" };

export function start(element) {
  const figure = new Figure(element, "Data, time, solver and steps");
  const plane = new Plane(figure, EXTENT, "Points of noise that move to the data.");
  const shapes = { "a ring": ring(11, 2.1, 0.15), "two moons": moons(1.3, WIDTH), "what I draw": null };
  let shape = "a ring";
  let [step, steps] = ["heun", 20];
  let states = [];
  let seed = 1;

  const target = () => shapes[shape] ?? (drawing.length ? points(drawing, WIDTH) : null);

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
    const { t } = time;
    const place = t * (states.length - 1);
    const before = Math.min(Math.floor(place), Math.max(states.length - 2, 0));
    const share = states.length > 1 ? place - before : 0;
    const next = states[Math.min(before + 1, states.length - 1)];
    const now = states[before].map((value, i) => value + share * (next[i] - value));
    for (let i = 0; i < 60; i++) {
      plane.way([...states.slice(0, before + 1), now], i, "model", 0.8, 0.35);
    }
    plane.points(now, t < 1 ? "noise" : "model", 2);
    if (!goal) {
      figure.say("Draw some points with the mouse, a finger or the arrow keys: they become the data.");
    } else {
      const cost = counted(COSTS[step] * steps, "evaluation");
      figure.say(
        `At t = ${t.toFixed(2)}, ${PARTICLES} points of noise are on their way to ` +
          `${PHRASES[shape] ?? shape} along its exact field. The whole way takes ` +
          `${counted(steps, "step")} of ${step}, ${cost} of the field.`,
      );
    }
  };

  const again = () => figure.guard(run);
  const flow = () => {
    again();
    time.play();
  };
  const data = figure.choice("data", Object.keys(shapes), (name) => {
    shape = name;
    flow();
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
  const time = figure.timeline({ seconds: SECONDS });
  figure.button("New noise", () => {
    seed += 1;
    flow();
  });
  const drawing = plane.pen(WIDTH, MOST, draw, flow);

  function draw() {
    time.stop();
    time.set(0);
    shape = data.value = "what I draw";
    states = [normal(generator(seed), 2 * PARTICLES)];
    figure.draw();
  }

  run();
  if (!figure.calm) time.play();
}
