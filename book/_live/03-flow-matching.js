// Chapter 3: a network learns a field while you watch. Its loss is at the floor after some hundred
// updates and then says nothing; the error of the field goes on falling. A worker trains.

import { Chart } from "./chart.js";
import { moons, points, ring } from "./exact.js";
import { Figure, counted } from "./figure.js";
import { Plane } from "./plane.js";
import { generator, sample } from "./random.js";

const EXTENT = 13;
const WIDTH = 0.6; // standard deviation around each drawn point
const MOST_DRAWN = 200;
const LAST = 10000; // updates
const RATES = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1];
const PATIENCE = 10; // seconds in sight without an answer of the worker
const NO_START = "The worker that trains could not start.";
const NO_DATA =
  "There are no data yet: draw some in the plane, with the mouse, a finger or the arrow keys.";

/** The share of points within three standard deviations of a component of the target. */
export function shareOnData(x, { means, variances }) {
  let near = 0;
  for (let i = 0; i < x.length; i += 2) {
    const close = (variance, k) =>
      (x[i] - means[2 * k]) ** 2 + (x[i + 1] - means[2 * k + 1]) ** 2 < 9 * variance;
    if (variances.some(close)) near += 2 / x.length;
  }
  return near;
}

/** In each of some columns of a logarithmic axis [update, least, mean, largest loss]. */
export function columns(losses, n) {
  const rows = [];
  for (let c = 0; c < n; c++) {
    const [from, to] = [c, c + 1].map((place) => Math.floor(LAST ** (place / n)) - 1);
    const part = losses.slice(from, to);
    const mean = part.reduce((sum, loss) => sum + loss, 0) / part.length;
    if (part.length) rows.push([from + 1, Math.min(...part), mean, Math.max(...part)]);
  }
  return rows;
}

export function start(element) {
  const figure = new Figure(element, "Data, learning rate, training, and a look back");
  const plane = new Plane(figure, EXTENT, "Data, and samples of the network. You can draw data.");
  const updates = { label: "updates", from: 1, to: 1.5 * LAST, log: true };
  const lossChart = new Chart(figure, "The loss of each batch and its mean, with the floor.", updates, {
    label: "loss of a batch",
    from: 0,
    to: 100,
  });
  const errorChart = new Chart(figure, "The error of the field, with its weights and with their average.", updates, {
    label: "relative error of the field",
    from: 0.01,
    to: 1.5,
    log: true,
  });
  const charts = document.createElement("div");
  charts.className = "live-charts";
  figure.controls.before(charts);
  charts.append(lossChart.canvas, errorChart.canvas);

  const shapes = { "a ring": ring(), "two moons": moons(6, WIDTH), "what I draw": null };
  let shape = "a ring";
  let [rate, seed] = [5e-3, 1];
  let run = null; // a worker and what it answered
  let back = null; // the update that the reader looks at, if it is not the last
  let trouble = null;
  let fresh = false; // something to draw

  const target = () => shapes[shape] ?? (drawing.length ? points(drawing, WIDTH) : null);

  /** Forget the training; the next one starts from new weights. */
  function forget() {
    run?.worker.terminate();
    run = back = trouble = null;
  }

  function fail(reason) {
    forget();
    trouble = `${reason} Press Train to start again from new weights.`;
    stop();
  }

  function launch() {
    forget();
    let worker;
    try {
      worker = new Worker(new URL("./trainer.js", import.meta.url), { type: "module" });
    } catch {
      return fail(NO_START);
    }
    const mine = { worker, target: target(), updates: 0, losses: [], errors: [], shots: [] };
    run = Object.assign(mine, { data: sample(mine.target, generator(9), 400), waiting: 0 });
    worker.onmessage = ({ data }) => run === mine && figure.guard(() => hear(data));
    worker.onerror = (event) => {
      event.preventDefault();
      if (run !== mine) return;
      const reason = event.message?.replace(/^Uncaught \w+: /, "") ?? "the worker was lost";
      fail(mine.shots.length ? `The training stopped: ${reason}.` : NO_START);
    };
    worker.postMessage({ target: mine.target, seed });
    seed += 1;
    mine.asked = true;
  }

  /** Let the worker train for a moment, if it rests and somebody looks. */
  function ask() {
    if (run.asked || !figure.playing || !figure.seen || document.hidden) return;
    run.asked = true;
    run.worker.postMessage({ rate, most: LAST });
  }

  function hear({ updates: reached, floor, losses, errors, states }) {
    run.asked = false;
    run.waiting = 0;
    run.updates = reached;
    run.floor = floor;
    run.losses.push(...losses);
    if (errors) run.errors.push([reached, ...errors]);
    if (states) run.shots.push({ updates: reached, states });
    fresh = true;
    if (reached >= LAST) stop();
    else if (figure.playing) ask();
    else figure.draw();
  }

  /** The last of [updates, …] or {updates} that is not after an update. */
  const until = (list, update, key) => list.findLast((item) => item[key] <= update) ?? list[0];

  figure.draw = () => {
    fresh = false;
    plane.clear();
    lossChart.clear();
    errorChart.clear();
    if (trouble || !run) {
      if (target()) plane.points(target().means, "data", 3, 0.5);
      return figure.say(
        trouble ?? (target() ? "Press Train: a network learns to carry noise to the data." : NO_DATA),
      );
    }
    plane.points(run.data, "data", 1.5, 0.35);
    if (!run.shots.length) return figure.say("The worker starts: it computes the floor of the loss.");
    const now = Math.min(back ?? run.updates, run.updates);
    const shot = until(run.shots, now, "updates");
    for (let i = 0; i < 40; i++) plane.way(shot.states, i, "model", 0.8, 0.35);
    const samples = shot.states.at(-1);
    plane.points(samples, "model", 2);
    drawCharts(now);

    const [, error, averaged] = until(run.errors, now, 0);
    const recent = run.losses.slice(Math.max(0, now - 100), now);
    const loss = recent.reduce((sum, value) => sum + value, 0) / recent.length;
    const percent = (share) => `${(100 * share).toPrecision(2)} %`;
    const ahead = back > run.updates ? "The training has not come further: press Train. " : "";
    // not every frame: a screen reader reads what changes
    if (figure.playing && run.told === shot.updates) return;
    run.told = shot.updates;
    figure.say(
      now === 0
        ? `${ahead}Before the first update, at a learning rate of ${rate}: the samples of a random network.`
        : `${ahead}After ${counted(now, "update")}, learning rate ${rate}: the loss is ${loss.toPrecision(3)} ` +
            `(mean of the last ${recent.length}), its floor ${run.floor.toPrecision(3)}. The ` +
            `field is off by ${percent(error)}, with averaged weights by ${percent(averaged)}; ` +
            `${Math.round(100 * shareOnData(samples, run.target))} % of their samples lie on the data.`,
    );
  };

  function drawCharts(now) {
    const highest = Math.max(run.floor, ...run.losses.slice(0, 10));
    const step = 10 ** Math.floor(Math.log10(highest)) / 5;
    lossChart.y.to = step * Math.ceil(highest / step);
    lossChart.clear();
    const rows = columns(run.losses, 150);
    lossChart.line(rows.flatMap(([u, least, , most]) => [[u, least], [u, most]]), "noise", 1);
    lossChart.line(rows.map(([u, , mean]) => [u, mean]), "model");
    lossChart.line([[1, run.floor], [LAST, run.floor]], "data", 1.5, [5, 4]);
    lossChart.text("floor", 1, run.floor + 0.07 * lossChart.y.to, "data");
    lossChart.text("each batch", 400, 0.97 * lossChart.y.to, "noise");
    lossChart.text("their mean", 400, 0.88 * lossChart.y.to, "model");
    const measured = run.errors.slice(1); // the first is before all updates
    errorChart.line(measured.map(([update, error]) => [update, error]), "model");
    errorChart.line(measured.map(([update, , averaged]) => [update, averaged]), "data");
    errorChart.text("weights", 400, 1, "model");
    errorChart.text("their average", 400, 0.65, "data");
    if (back === null) return;
    for (const chart of [lossChart, errorChart]) {
      chart.line([[now, chart.y.from], [now, chart.y.to]], "truth", 1, [2, 3]);
    }
  }

  const data = figure.choice("data", Object.keys(shapes), (name) => {
    shape = name;
    again();
  });
  figure.slider(
    "learning rate",
    { min: 0, max: RATES.length - 1, step: 1, value: RATES.indexOf(rate), show: (i) => `${RATES[i]}` },
    (i) => {
      rate = RATES[i];
      figure.draw();
    },
  );
  const look = figure.slider(
    "look back to update",
    { min: 0, max: 4, step: 0.02, value: 0, show: (v) => `${Math.round(10 ** v)}` },
    (value) => {
      back = Math.round(10 ** value);
      stop();
    },
  );
  const train = figure.button("Train", () => (figure.playing ? stop() : begin()));
  figure.button("Start again", again);

  function stop() {
    figure.pause();
    train.textContent = "Train";
    figure.draw();
  }

  function begin() {
    back = null;
    if (!target()) return stop();
    if (run?.updates >= LAST) forget();
    trouble = null;
    train.textContent = "Pause";
    figure.play((passed) => {
      if (!run) launch();
      if (!run) return;
      ask();
      run.waiting += run.asked ? passed : 0;
      if (run.waiting > PATIENCE) return fail("The worker that trains does not answer any more.");
      if (fresh) {
        look.set(Math.log10(Math.max(1, run.updates)));
        figure.draw();
      }
    });
  }

  function again() {
    forget();
    begin();
  }

  const drawing = plane.pen(
    WIDTH,
    MOST_DRAWN,
    () => {
      shape = data.value = "what I draw";
      forget();
      stop();
    },
    () => figure.guard(again),
  );

  figure.draw();
  if (!figure.calm) figure.guard(begin);
}
