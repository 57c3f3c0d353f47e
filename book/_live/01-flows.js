// Chapter 1: points and a small box carried by a field. The box changes its area at the rate of the
// divergence, which is what flows out of it less what flows in.

import { Figure } from "./figure.js";
import { Plane } from "./plane.js";
import { rk4 } from "./solvers.js";

const EXTENT = 3;
const HALF = 0.25; // of a side of the box at its start
const SIDE_POINTS = 12; // of its outline on each side
const STEP = 0.02;
const LATEST = 3;
const SECONDS = 6;

/** Each field with its divergence at (x, y). */
export const FIELDS = {
  "a spiral that draws in": { v: (x, y) => [-0.4 * x - y, x - 0.4 * y], divergence: () => -0.8 },
  "a rotation": { v: (x, y) => [-y, x], divergence: () => 0 },
  "a saddle": { v: (x, y) => [0.7 * x, -0.7 * y], divergence: () => 0 },
  "a source": { v: (x, y) => [0.4 * x, 0.4 * y], divergence: () => 0.8 },
  "more stretching to the right": {
    v: (x) => [0.3 * Math.exp(0.4 * x), 0],
    divergence: (x) => 0.12 * Math.exp(0.4 * x),
  },
};

/** A field on points, from its value at one. */
export function onPoints(v) {
  return (x) => {
    const out = new Float64Array(x.length);
    for (let i = 0; i < x.length; i += 2) out.set(v(x[i], x[i + 1]), i);
    return out;
  };
}

/** The outline of a square around a place, counter-clockwise. */
export function outline(x, y, half, n = SIDE_POINTS) {
  const out = [];
  const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]];
  corners.forEach(([ax, ay], k) => {
    const [bx, by] = corners[(k + 1) % 4];
    for (let i = 0; i < n; i++) {
      const share = i / n;
      out.push(x + half * (ax + share * (bx - ax)), y + half * (ay + share * (by - ay)));
    }
  });
  return Float64Array.from(out);
}

/** The area inside an outline, by the shoelace formula; negative if it runs clockwise. */
export function area(places) {
  let twice = 0;
  for (let i = 0; i < places.length; i += 2) {
    const j = (i + 2) % places.length;
    twice += places[i] * places[j + 1] - places[j] * places[i + 1];
  }
  return twice / 2;
}

/** What flows out through an outline in a unit of time: ∮ v · n ds, by the midpoint rule. */
export function flux(v, places) {
  let total = 0;
  for (let i = 0; i < places.length; i += 2) {
    const j = (i + 2) % places.length;
    const [ax, ay, bx, by] = [places[i], places[i + 1], places[j], places[j + 1]];
    const [vx, vy] = v((ax + bx) / 2, (ay + by) / 2);
    total += vx * (by - ay) - vy * (bx - ax);
  }
  return total;
}

export function start(element) {
  const figure = new Figure(element, "Field, time and points");
  const plane = new Plane(figure, EXTENT, "Points and a small box, carried by a field of arrows.");
  let name = Object.keys(FIELDS)[0];
  let [x, y] = [1.5, 0.5];
  let ways = []; // the states of the box, its middle and the dropped points at each step
  let dropped = [];

  const field = () => FIELDS[name];

  function run() {
    const box = outline(x, y, HALF);
    let state = Float64Array.of(...box, x, y, ...dropped);
    ways = [state];
    const v = onPoints(field().v);
    for (let now = 0; now < LATEST - STEP / 2; now += STEP) {
      state = rk4(v, state, now, STEP);
      ways.push(state);
    }
    figure.draw();
  }

  figure.draw = () => {
    const { t } = time;
    const size = 8 * SIDE_POINTS;
    const index = Math.round(t / STEP);
    const now = ways[index];
    const box = now.subarray(0, size);
    plane.clear();
    const places = plane.grid(15);
    plane.arrows(places, onPoints(field().v)(places), 0.4, "truth", 0.3);
    for (let i = size / 2; i < now.length / 2; i++) {
      plane.way(ways.slice(0, index + 1), i, "noise", 1.2, 0.8);
    }
    plane.polygon(box, "data");
    plane.points(now.subarray(size, size + 2), "data", 3);
    plane.points(now.subarray(size + 2), "model", 4);
    const ratio = area(box) / area(ways[0].subarray(0, size));
    let integral = 0; // of the divergence along the way of the middle, by the trapezoidal rule
    for (let k = 0; k < index; k++) {
      const at = (s) => field().divergence(s[size], s[size + 1]);
      integral += (STEP * (at(ways[k]) + at(ways[k + 1]))) / 2;
    }
    const rate = flux(field().v, box) / area(box);
    figure.say(
      `At t = ${t.toFixed(2)} the box has ${ratio.toFixed(2)} times the area it began with. The ` +
        `divergence along its way adds up to ${integral.toFixed(2)}, and exp of that is ` +
        `${Math.exp(integral).toFixed(2)}. In each unit of time ${Math.abs(rate).toFixed(2)} times ` +
        `its area flows ${rate < 0 ? "in" : "out"} through its sides; the divergence in its middle ` +
        `is ${field().divergence(now[size], now[size + 1]).toFixed(2)}.`,
    );
  };

  figure.choice("field", Object.keys(FIELDS), (chosen) => {
    name = chosen;
    figure.guard(run);
  });
  const time = figure.timeline({ end: LATEST, step: STEP, seconds: SECONDS });
  figure.button("Drop 20 points", () => {
    dropped = Array.from({ length: 40 }, () => EXTENT * (2 * Math.random() - 1));
    run();
  });
  plane.handle(
    () => [x, y],
    (newX, newY) => {
      time.stop();
      [x, y] = [newX, newY];
      time.set(0);
      figure.guard(run);
    },
  );

  run();
  if (!figure.calm) time.play();
}
