// Chapter 11: one mixture, steered by the exact value of a reward, by a guess of it (the reward of the
// predicted end), or towards a label. The law that was asked for is shaded; points and bars are what
// comes out.

import { Chart } from "./chart.js";
import { ExactField, ring } from "./exact.js";
import { Figure } from "./figure.js";
import { guided, sharpened, summary } from "./guidance.js";
import { Plane } from "./plane.js";
import { LINEAR } from "./schedules.js";
import { grid, midpoint, solve } from "./solvers.js";
import { guessed, sharesNear, spiral, tilted } from "./steering.js";

const EXTENT = 4.5;
const PARTICLES = 400;
const STEPS = 40; // midpoint's never ask at t = 1, where the guess divides by σ
const SECONDS = 4;
const OVERVIEW = 60; // cells a side of the grid on which the wanted law is measured
const DATA = ring(6, 2.5, 0.5);
const NOISE = spiral(PARTICLES);
const FAR = 3; // standard deviations
const [LITTLE, MUCH] = [0.1, 0.05]; // distances of means and differences of shares
const STEER = {
  exact: "exact reward",
  guess: "guessed reward",
  label: "label ahead",
};

/** The component whose direction is closest to that of b. */
export function ahead({ means, variances }, [x, y]) {
  const along = Array.from(variances, (_, k) => x * means[2 * k] + y * means[2 * k + 1]);
  return along.indexOf(Math.max(...along));
}

const only = (k) => ({
  weights: [1],
  means: DATA.means.slice(2 * k, 2 * k + 2),
  variances: [DATA.variances[k]],
});

export function start(element) {
  const figure = new Figure(element, "What steers, how much and when");
  const plane = new Plane(figure, EXTENT, "Steered samples over the law that is wanted, shaded.");
  const chart = new Chart(
    figure,
    "The share of samples nearest to each mode, with that of the wanted law.",
    { label: "mode, anticlockwise from the right", from: 0, to: DATA.weights.length },
    { label: "share", from: 0, to: 1 },
  );
  const free = new ExactField(LINEAR, DATA);
  const places = plane.grid(OVERVIEW);
  const before = free.logProb(places, 1);
  let [kind, scale, during, linear] = [STEER.exact, 1, [0, 1], [0.6, 0.45]];
  let states = [];
  let wanted; // density, shares and summary of the law that was asked for

  function run() {
    const target = kind === STEER.label ? only(ahead(DATA, linear)) : tilted(DATA, linear);
    const end = new ExactField(LINEAR, target);
    const field = kind === STEER.guess ? guessed(free, linear) : end.velocity;
    states = solve(guided(free.velocity, field, scale, during), NOISE, grid(STEPS), midpoint);
    const log = (x) => sharpened(free.logProb(x, 1), end.logProb(x, 1), scale);
    const logs = sharpened(before, end.logProb(places, 1), scale);
    const most = logs.reduce((a, b) => Math.max(a, b));
    const weight = (i) => Math.exp(logs[i] - most);
    wanted = {
      log: (x) => log(x).map((value) => value - most), // far out its density would round to 0
      ...sharesNear(places, DATA, FAR, weight),
      ...summary(places, weight),
    };
    figure.draw();
  }

  figure.draw = () => {
    const { t } = time;
    const index = Math.round(t * STEPS);
    plane.clear();
    plane.density(wanted.log, "data");
    plane.points(states[index], t < 1 ? "noise" : "model", 2, 0.8);
    for (let i = 20; i < PARTICLES; i += 40) {
      plane.way(states.slice(0, index + 1), i, "model", 1.2, 0.5);
    }
    const steering = during[0] <= t && t <= during[1];
    plane.arrow(0, 0, ...linear, "truth", 2.5, steering ? 1 : 0.4);
    plane.circle(...linear, 7, "truth");

    const found = { ...sharesNear(states.at(-1), DATA, FAR), ...summary(states.at(-1)) };
    chart.clear();
    chart.bars([...found.near], "model");
    wanted.near.forEach((share, k) => {
      chart.line([[k, DATA.weights[k]], [k + 1, DATA.weights[k]]], "truth", 1.5, [2, 3]);
      chart.line([[k, share], [k + 1, share]], "data", 3);
    });
    const beside = wanted.near.indexOf(Math.max(...wanted.near)) < 3 ? 3 : 0; // the highest bar
    chart.text("bars: samples at t = 1", beside, 0.97, "model");
    chart.text("lines: the wanted law", beside, 0.9, "data");
    chart.text("dots: before steering", beside, 0.83, "truth");
    figure.say(`${said()} ${measured(found)}`);
  };

  /** What is asked for. */
  function said() {
    const law = kind === STEER.label ? "p(x) p(mode ahead | x)ˢ" : "p(x) exp(s⟨b, x⟩)";
    const size = kind === STEER.label ? "" : `|b| = ${Math.hypot(...linear).toFixed(1)} and `;
    const asked = `Wanted is ${law} with ${size}s = ${scale.toFixed(1)}.`;
    if (during[0] === 0 && during[1] === 1) return asked;
    const [from, until] = during.map((value) => value.toFixed(2));
    const idle = scale === 1 ? ", so the interval changes nothing" : "";
    return `${asked} For t before ${from} and after ${until} s is 1${idle}.`;
  }

  /** What comes out. */
  function measured(found) {
    const off = Math.hypot(found.mean[0] - wanted.mean[0], found.mean[1] - wanted.mean[1]);
    const gap = found.near.reduce((a, share, k) => Math.max(a, Math.abs(share - wanted.near[k])), 0);
    const percent = (share) => `${Math.round(100 * share)}\u00a0%`;
    let verdict = "The law that comes out is the wanted one.";
    if (off > LITTLE || Math.abs(found.spread - wanted.spread) > LITTLE) {
      verdict = gap < MUCH
        ? "The shares look right, and the law is another."
        : "The law that comes out is another.";
    }
    return (
      `At t = 1 the samples' mean is ${off.toFixed(2)} from the wanted one; their spread is ` +
      `${found.spread.toFixed(2)}, wanted ${wanted.spread.toFixed(2)}. ${percent(found.away)} are ` +
      `far from every mode, wanted ${percent(wanted.away)}. ${verdict}`
    );
  }

  const interval = (which) => (value) => {
    during[which] = value;
    const other = 1 - which;
    if (during[0] > during[1]) edges[other].set((during[other] = value));
    run();
  };
  figure.choice("steer by", Object.values(STEER), (name) => {
    kind = name;
    run();
  });
  figure.slider(
    "scale s",
    { min: 0, max: 4, step: 0.1, value: scale, show: (v) => v.toFixed(1) },
    (value) => {
      scale = value;
      run();
    },
  );
  const edges = ["from t", "until t"].map((name, which) =>
    figure.slider(name, { min: 0, max: 1, step: 0.05, value: during[which] }, interval(which)),
  );
  const time = figure.timeline({ step: 1 / STEPS, seconds: SECONDS });
  plane.handle(
    () => linear,
    (x, y) => {
      linear = [x, y];
      figure.guard(run);
    },
  );
  if (figure.calm) time.set(1);
  figure.guard(run);
  if (!figure.calm) time.play();
}
