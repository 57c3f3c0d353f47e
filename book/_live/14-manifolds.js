// Chapter 14: uniform noise on the globe flows to a few points. Straight lines run through its
// inside; geodesics stay. Each geodesic is torn at the cut, opposite its point, and the marginal
// field is not: for t > 0 nobody on the way to a point is near its cut.

import { Chart } from "./chart.js";
import { Figure, counted } from "./figure.js";
import { Globe } from "./globe.js";
import {
  GeodesicField, follow, geodesicEuler, project, shortest, uniformOnSphere,
} from "./manifolds.js";
import { generator } from "./random.js";
import { grid, moved, solve } from "./solvers.js";

const PARTICLES = 120;
const TRACES = 20; // particles whose ways are shown
const STEPS = 120;
const SECONDS = 5;
const LATEST = 0.97; // time at which the density and the field are still shown
const SAMPLES = 180; // of the chart; even, so that none is on the cut
const KINDS = {
  field: "the marginal field",
  geodesics: "a geodesic for each",
  lines: "a straight line for each",
};
const POINTS = [
  0.26, -0.9, 0.31, 0.38, 0.55, 0.72, -0.6, 0.2, -0.75, // three that are far apart
  0.74, 0.3, -0.58, -0.8, -0.5, 0.3, -0.3, 0.9, 0.2,
];
const degrees = (angle) => Math.round((180 * angle) / Math.PI);

export function start(element) {
  const figure = new Figure(element, "Paths, points and view");
  const globe = new Globe(figure, "A globe with particles, points of data and the cut of one.");
  const circle = { label: "degrees from the cut, once around", from: -180, to: 180 };
  const chart = new Chart(
    figure,
    "On a circle through the cut, the velocity to its point and that of the marginal field.",
    circle,
    {},
  );
  const uniform = generator(14);
  const noise = uniformOnSphere(uniform, PARTICLES);
  const drawn = Float64Array.from({ length: PARTICLES }, uniform); // which point each goes to
  const times = grid(STEPS);
  let [kind, count, chosen] = [KINDS.field, 3, 0];
  let places = project(Float64Array.from(POINTS));
  let field, goals, states;

  const point = (k) => places.slice(3 * k, 3 * k + 3);

  /** Work out all states anew. */
  function begin() {
    field = new GeodesicField(places.subarray(0, 3 * count));
    goals = new Float64Array(3 * PARTICLES);
    drawn.forEach((share, i) => goals.set(point(Math.floor(count * share)), 3 * i));
    if (kind === KINDS.field) {
      states = solve(field.velocity, noise, times, geodesicEuler);
    } else if (kind === KINDS.geodesics) {
      const v = shortest(noise, goals);
      states = [...times].map((t) => follow(noise, v, t));
    } else {
      const v = moved(goals, -1, noise);
      states = [...times].map((t) => moved(noise, t, v));
    }
    figure.draw();
  }

  /** How far inside the sphere the particles are. */
  const depths = (x) =>
    Array.from({ length: x.length / 3 }, (_, i) => 1 - Math.hypot(...x.subarray(3 * i, 3 * i + 3)));
  const most = (values) => values.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

  /** A circle through the cut of the chosen point: places and directions. */
  function around() {
    const y = point(chosen);
    const side = project(Math.abs(y[2]) < 0.9 ? [-y[1], y[0], 0] : [0, -y[2], y[1]]);
    const [x, along] = [new Float64Array(3 * SAMPLES), new Float64Array(3 * SAMPLES)];
    for (let i = 0; i < SAMPLES; i++) {
      const s = Math.PI * ((2 * i + 1) / SAMPLES - 1);
      for (let d = 0; d < 3; d++) {
        x[3 * i + d] = -Math.cos(s) * y[d] + Math.sin(s) * side[d];
        along[3 * i + d] = Math.sin(s) * y[d] + Math.cos(s) * side[d];
      }
    }
    return { x, along };
  }

  /** Velocities along the circle, torn at the cut if anywhere, and where nobody passes. */
  function pieces({ x, along }, field, t) {
    const v = field.velocity(x, t);
    const density = field.logProb(x, t);
    const out = [[]];
    for (let i = 0; i < SAMPLES; i++) {
      let speed = 0;
      for (let d = 3 * i; d < 3 * i + 3; d++) speed += v[d] * along[d];
      if (density[i] === -Infinity || (t === 0 && i === SAMPLES / 2)) out.push([]);
      if (density[i] > -Infinity) out.at(-1).push([360 * ((i + 0.5) / SAMPLES - 0.5), speed]);
    }
    return out;
  }

  function drawCut(t, path) {
    chart.x = circle;
    chart.y = { label: "velocity along the circle", from: -3.5, to: 3.5 };
    chart.clear();
    const own = new GeodesicField(point(chosen));
    for (const piece of pieces(path, own, t)) chart.line(piece, "data", 1.5, [5, 4]);
    for (const piece of pieces(path, field, t)) chart.line(piece, "model", 2);
    chart.text("to the chosen point", -178, 3, "data");
    chart.text("marginal", -178, 2.3, "model");
  }

  function drawDepths(t) {
    chart.x = { label: "time t", from: 0, to: 1 };
    chart.y = { label: "depth inside the sphere", from: 0, to: 1 };
    chart.clear();
    const all = states.map(depths);
    chart.line(all.map((depth, k) => [times[k], most(depth)]), "noise", 1.5, [5, 4]);
    chart.line(all.map((depth, k) => [times[k], mean(depth)]), "model", 2);
    chart.dot(t, mean(depths(states[Math.round(STEPS * t)])), "model");
    chart.text("deepest", 0.02, 0.92, "noise");
    chart.text("mean", 0.02, 0.8, "model");
  }

  figure.draw = () => {
    const now = Math.round(STEPS * time.t);
    const [t, x] = [Math.min(time.t, LATEST), states[now]];
    const y = point(chosen);
    const path = around();
    globe.clear();
    if (kind !== KINDS.lines) globe.shade((places) => field.logProb(places, t), "data");
    globe.outline();
    globe.thread(path.x, "truth", 1, 0.6);
    for (let i = 0; i < TRACES; i++) {
      const way = states.slice(0, now + 1).flatMap((s) => [...s.subarray(3 * i, 3 * i + 3)]);
      globe.thread(way, "model", 1, 0.6);
    }
    globe.spots(x, "model", 2.5);
    globe.spots(field.points, "data", 6);
    globe.ring(y, 9, "data");
    globe.ring(y.map((value) => -value), 7, "truth");

    const depth = depths(x);
    const said = [`t = ${time.t.toFixed(2)}.`];
    if (kind === KINDS.lines) {
      drawDepths(time.t);
      said.push(
        `On straight lines the particles are ${mean(depth).toFixed(2)} inside the sphere of ` +
          `radius 1 on average, and ${most(depth).toFixed(2)} at most. The deepest began almost opposite ` +
          "their points.",
      );
    } else {
      drawCut(t, path);
      said.push(most(depth) < 1e-12 ? "All particles are on the sphere, to rounding." : "");
      if (t === 0) {
        const jump = (2 * Math.PI) / count;
        said.push(
          "Across the cut, the ring opposite the chosen point, the way to it turns round at " +
            `once: by 2π. The mean of ${counted(count, "way")} jumps by ${jump.toFixed(2)}.`,
        );
      } else if (time.t < 1) {
        const empty = field.logProb(y.map((value) => -value), t)[0] === -Infinity;
        said.push(
          `Nobody on the way to the chosen point is within ${degrees(Math.PI * t)}° of its cut, ` +
            `the ring. ${empty ? "Nobody else is there either." : "There the mean has no jump."}`,
        );
      }
    }
    if (time.t === 1) {
      const equal = PARTICLES / count;
      const found = arrivals(x).join(", ");
      said.push(`${found} particles arrive at the points; equal shares are ${equal}.`);
    }
    figure.say(said.join(" "));
  };

  /** How many particles are at each point. */
  function arrivals(x) {
    const out = Array(count).fill(0);
    for (let i = 0; i < x.length; i += 3) {
      const apart = out.map((_, k) => Math.hypot(...point(k).map((value, d) => value - x[i + d])));
      out[apart.indexOf(Math.min(...apart))] += 1;
    }
    return out;
  }

  figure.choice("each particle follows", Object.values(KINDS), (name) => {
    kind = name;
    begin();
  });
  figure.slider(
    "points",
    { min: 1, max: POINTS.length / 3, step: 1, value: count, show: String },
    (n) => {
      count = n;
      chosen = Math.min(chosen, count - 1);
      begin();
    },
  );
  const view = figure.slider(
    "turn",
    { min: -180, max: 180, step: 5, value: 0, show: (angle) => `${angle}°` },
    (angle) => {
      globe.turn = (Math.PI * angle) / 180;
      figure.draw();
    },
  );
  const time = figure.timeline({ seconds: SECONDS });
  globe.hold({
    points: () => field.points,
    taken: () => point(chosen),
    take: (k) => {
      chosen = k;
      figure.guard(figure.draw);
    },
    move: (place) => {
      places = Float64Array.from(places);
      places.set(project(Float64Array.from(place)), 3 * chosen);
      figure.guard(begin);
    },
    turned: () => {
      globe.turn = Math.atan2(Math.sin(globe.turn), Math.cos(globe.turn));
      view.set(degrees(globe.turn));
      figure.guard(figure.draw);
    },
  });
  figure.guard(begin);
  if (figure.calm) {
    time.set(0.3);
    figure.guard(figure.draw);
  } else {
    time.play();
  }
}
