// Chapter 2: at a place x and a time t, one arrow to each data point, as wide as the data point is
// likely; their mean is the velocity. Or a handful of training points, to which the field snaps.

import { ExactField, observe, points, ring } from "./exact.js";
import { Figure } from "./figure.js";
import { Plane } from "./plane.js";
import { generator, sample } from "./random.js";
import { SCHEDULES } from "./schedules.js";
import { heun, solve } from "./solvers.js";

const BY_NAME = Object.fromEntries(Object.values(SCHEDULES).map((s) => [s.name, s]));
const LATEST = 0.98; // two of the schedules have no velocity at t = 1
const DATA = {
  "eleven points on a ring": points(ring().means),
  "thirty training points": points(sample(ring(), generator(2), 30)),
};

export function start(element) {
  const figure = new Figure(element, "Time, schedule and data");
  const plane = new Plane(figure, 13, "Data points, and arrows from a place you choose to each.");
  let [x, y, t] = [1.5, 1, 0.25];
  let [schedule, target] = [SCHEDULES.LINEAR, Object.values(DATA)[0]];

  figure.draw = () => {
    const alpha = schedule.alpha(t);
    const sigma = schedule.sigma(t);
    const field = new ExactField(schedule, target);
    plane.clear();
    plane.density((places) => field.logProb(places, t));
    const places = plane.grid(13);
    plane.arrows(places, field.velocity(places, t), 1.6, "truth", 0.25);
    plane.points(target.means, "data", 4);
    const { shares } = observe(target, x, y, alpha, sigma);
    const scale = 0.25; // of velocities, so that arrows stay in the picture
    for (let k = 0; k < shares.length; k++) {
      const single = { weights: [1], means: target.means.slice(2 * k, 2 * k + 2), variances: [0] };
      const [dx, dy] = new ExactField(schedule, single).velocity([x, y], t);
      const width = 0.7 + 7 * shares[k];
      plane.arrow(x, y, scale * dx, scale * dy, "data", width, 0.25 + 0.6 * shares[k]);
    }
    const [vx, vy] = field.velocity([x, y], t);
    const times = Float64Array.from({ length: 41 }, (_, i) => t + ((LATEST - t) * i) / 40);
    const way = t < LATEST ? solve(field.velocity, Float64Array.of(x, y), times, heun) : [];
    plane.way(way, 0, "model", 2, 0.9);
    plane.arrow(x, y, scale * vx, scale * vy, "model", 3);
    plane.circle(x, y, 6, "model");
    const most = Math.max(...shares);
    const near = [...shares].filter((share) => share > 0.01).length;
    figure.say(
      `At t = ${t.toFixed(2)} and x = (${x.toFixed(1)}, ${y.toFixed(1)}), ` +
        `the likeliest data point has ${Math.round(100 * most)} % of the weight, and ${near} of ` +
        `${shares.length} have more than 1 %. The mean of their arrows is the velocity ` +
        `(${vx.toFixed(1)}, ${vy.toFixed(1)}).`,
    );
  };

  const draw = () => figure.guard(figure.draw);
  plane.handle(
    () => [x, y],
    (newX, newY) => {
      [x, y] = [newX, newY];
      draw();
    },
  );
  figure.slider("time t", { min: 0, max: LATEST, step: 0.01, value: t }, (value) => {
    t = value;
    draw();
  });
  figure.choice("schedule", Object.keys(BY_NAME), (name) => {
    schedule = BY_NAME[name];
    draw();
  });
  figure.choice("data", Object.keys(DATA), (name) => {
    target = DATA[name];
    draw();
  });
  draw();
}
