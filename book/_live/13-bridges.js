// Chapter 13: noisy paths between two clouds. Points that know their partner, points that follow
// the average drift, and points that follow the velocity without noise have one density at every
// time. Only for the plan with ρ = 2σ² do the first two also agree on who ends where.

import { PlanField, bridgeStep, flowStep, partners, variance } from "./bridges.js";
import { Chart } from "./chart.js";
import { assignment, drawn, sinkhornLog, squaredDistances } from "./couplings.js";
import { moons, points, ring } from "./exact.js";
import { Figure } from "./figure.js";
import { Plane } from "./plane.js";
import { generator, normal, sample } from "./random.js";

const EXTENT = 3.4;
const COUNT = 14; // points of a cloud
const EACH = 6; // points that start in one of them
const MOVING = EACH * COUNT;
const SPREAD = 0.45; // of the first cloud
const STEPS = 44;
// short steps at both ends, where the drifts change fastest
const TIMES = Array.from({ length: STEPS + 1 }, (_, k) => (1 - Math.cos((Math.PI * k) / STEPS)) / 2);
const TARGETS = {
  "two clumps": points([1.9, 1.5, 1.9, -1.5], 0.35),
  "two moons": moved(moons(1.5, 0.1), 1.2),
  ring: moved(ring(8, 1.4, 0.1), 1.5),
};
const PLANS = {
  entropic: "entropic, ρ = 2σ²",
  independent: "independent",
  cheapest: "cheapest, without noise",
};
const WAYS = {
  bridges: "bridges to partners",
  drift: "the drift, partners forgotten",
  flow: "the velocity, no noise",
};

/** A target at another place. */
function moved(target, far) {
  return { ...target, means: target.means.map((value, i) => (i % 2 ? value : value + far)) };
}

/** Points from low to high. */
function sorted(x) {
  const places = Array.from({ length: x.length / 2 }, (_, i) => [x[2 * i], x[2 * i + 1]]);
  return Float64Array.from(places.sort((a, b) => a[1] - b[1]).flat());
}

/** Noise and its opposite for two points at a time, so that it favours no side of a start. */
function opposite(noise) {
  const pairs = Array.from({ length: noise.length / 2 }, (_, i) => [noise[2 * i], noise[2 * i + 1]]);
  return Float64Array.from(pairs.flatMap(([x, y]) => [x, y, -x, -y]));
}

/** Of start and end, from the variance at time t of the points on the lines between them. */
const covariance = (variance) => 2 * variance(1 / 2) - (variance(0) + variance(1)) / 2;

const round = (value) => (Math.round(10 * value) / 10 + 0).toFixed(1); // no −0.0

export function start(element) {
  const figure = new Figure(element, "Pairs, paths, noise and time");
  const plane = new Plane(figure, EXTENT, "Paths from a cloud on the left to one on the right.");
  const chart = new Chart(
    figure,
    "How far apart the points are at each time: by the formula and as they move.",
    { label: "time t", from: 0, to: 1 },
    { label: "variance", from: 0, to: 1 },
  );
  let [pairing, way, target, sigma, seed] = [
    PLANS.entropic, WAYS.bridges, Object.values(TARGETS)[0], 0.5, 1,
  ];
  let center = [-1.9, 0];
  let shape, x0, x1, chance, noises; // the clouds, and all that is random
  let plan, straight, states, ends; // ends: their dependence in the plan, and as they move

  function draw() {
    const uniform = generator(seed);
    shape = normal(uniform, 2 * COUNT).map((value) => SPREAD * value);
    // in the order of height, so that the partners of a point are drawn from low to high
    x1 = sorted(sample(target, uniform, COUNT));
    // one number in each of equal strata, so that every point of the first cloud starts as often
    chance = Float64Array.from({ length: MOVING }, (_, k) => (k + uniform()) / MOVING);
    noises = TIMES.map(() => opposite(normal(uniform, MOVING)));
    run();
  }

  function run() {
    x0 = shape.map((value, i) => value + center[i % 2]);
    const cost = squaredDistances(x0, x1);
    const best = cost.map(() => new Float64Array(COUNT));
    assignment(cost).forEach((i, j) => (best[i][j] = 1 / COUNT));
    straight = TIMES.map((t) => [t, variance(x0, x1, best, 0, t)]);
    plan = {
      [PLANS.entropic]: () => sinkhornLog(cost, 2 * sigma * sigma, Math.ceil(100 / sigma)),
      [PLANS.independent]: () => cost.map((row) => row.map(() => 1 / COUNT ** 2)),
      [PLANS.cheapest]: () => best,
    }[pairing]();
    move();
    const [from, to] = [states[0], states.at(-1)];
    const between = (t) => spread(from.map((value, i) => (1 - t) * value + t * to[i]));
    const most = covariance((t) => variance(x0, x1, best, 0, t));
    ends = [(t) => variance(x0, x1, plan, 0, t), between].map((v) => covariance(v) / most);
    figure.draw();
  }

  /** Work out where the moving points are at all times. */
  function move() {
    const field = new PlanField(x0, x1, plan, sigma);
    const pairs = drawn(plan, chance);
    const partnersOf = (x, side) =>
      Float64Array.from(pairs.flatMap((pair) => [x[2 * pair[side]], x[2 * pair[side] + 1]]));
    const [begin, end] = [partnersOf(x0, 0), partnersOf(x1, 1)];
    // all begin on a bridge: at t = 0 a cloud of points has no density, and so no velocity
    states = [begin, bridgeStep(begin, end, 0, TIMES[1], sigma, noises[0])];
    for (let k = 1; k < STEPS; k++) {
      const [x, t, s] = [states[k], TIMES[k], TIMES[k + 1]];
      if (way === WAYS.flow) {
        states.push(flowStep(x, field.ends(x, t), t, s));
      } else {
        const aim = way === WAYS.drift ? field.ends(x, t)[1] : end;
        states.push(bridgeStep(x, aim, t, s, sigma, noises[k]));
      }
    }
  }

  /** The moving points at time t, on the lines between two steps. */
  function at(t) {
    const k = Math.min(STEPS - 1, TIMES.findLastIndex((time) => time <= t));
    const share = (t - TIMES[k]) / (TIMES[k + 1] - TIMES[k]);
    return states[k].map((value, i) => value + share * (states[k + 1][i] - value));
  }

  function spread(x) {
    const [mx, my] = [0, 1].map(
      (d) => x.reduce((sum, value, i) => (i % 2 === d ? sum + value : sum), 0) / MOVING,
    );
    return x.reduce((sum, value, i) => sum + (value - (i % 2 ? my : mx)) ** 2, 0) / MOVING;
  }

  figure.draw = () => {
    const { t } = time;
    const now = at(t);
    plane.clear();
    for (let i = 0; i < MOVING; i++) plane.way(states, i, "model", 1, 0.25);
    plane.points(x0, "noise", 4, 0.9);
    plane.points(x1, "data", 4, 0.9);
    plane.points(now, "model", 3, 1);
    plane.circle(...center, 14, "noise");

    const formula = TIMES.map((s) => [s, variance(x0, x1, plan, sigma, s)]);
    const measured = states.map((x, k) => [TIMES[k], spread(x)]);
    chart.y.to = Math.ceil(1.1 * Math.max(...[...formula, ...measured].map(([, v]) => v)));
    chart.clear();
    chart.line(straight, "data", 2, [5, 4]);
    chart.line(formula, "model", 2);
    for (const [s, value] of measured) chart.dot(s, value, "noise", 2);
    chart.dot(t, spread(now), "model", 5);
    chart.text("dashed: cheapest pairs, no noise", 0.3, chart.y.to / 12, "data");
    say(t, spread(now));
  };

  function say(t, width) {
    const wide = variance(x0, x1, plan, sigma, t).toFixed(1);
    const [planned, found] = ends;
    const said = [
      `σ = ${sigma.toPrecision(2)}: a point has ${partners(plan).toFixed(1)} partners on average.`,
      `At t = ${t.toFixed(2)} the ${MOVING} moving points have variance ${width.toFixed(1)}, ` +
        `by the formula ${wide}.`,
      "Dependence of start and end, 0 if independent and 1 for the cheapest pairs: " +
        `${round(planned)} in the plan, ${round(found)} as they move.`,
    ];
    if (way === WAYS.flow) {
      said.push("Without noise there is one way on from every place, and still the same density.");
    } else if (way === WAYS.drift) {
      said.push(
        pairing === PLANS.entropic
          ? "Partners are forgotten, and the pairs come out the same: the Schrödinger bridge."
          : Math.abs(planned - found) < 0.1
            ? "Forgetting the partners changes little here."
            : "Other pairs come out than went in: this plan is not that of a Schrödinger bridge.",
      );
    }
    figure.say(said.join(" "));
  }

  const anew = (change, then) => (value) => {
    change(value);
    then();
  };
  figure.choice("paths", Object.values(WAYS), anew((name) => (way = name), run));
  figure.choice("pairs", Object.values(PLANS), anew((name) => (pairing = name), run));
  figure.choice("to", Object.keys(TARGETS), anew((name) => (target = TARGETS[name]), draw));
  figure.slider(
    "noise σ",
    { min: -1, max: 0.3, step: 0.05, value: Math.log10(sigma), show: (v) => (10 ** v).toPrecision(2) },
    anew((value) => (sigma = 10 ** value), run),
  );
  const time = figure.timeline({ seconds: 4 });
  figure.button("New points", () => {
    seed += 1;
    draw();
  });
  plane.handle(
    () => center,
    (x, y) => {
      center = [x, y];
      figure.guard(run);
    },
  );
  figure.guard(draw);
  if (!figure.calm) time.play();
}
