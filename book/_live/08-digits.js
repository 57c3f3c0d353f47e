// Chapter 8: the published network makes ten digits in the page. Above the states, below what each
// is predicted to become. One can turn the noise, guide, count evaluations, and start from a
// drawing that the flow has carried to noise.

import {
  NO_LABEL,
  Networks,
  SAMPLERS,
  affordable,
  bitsPerDimension,
  dequantised,
  evaluations,
  greyLevel,
  guided,
  last,
  logLikelihood,
  rademacher,
  sample,
  turned,
  wayToNoise,
} from "./digits.js";
import { Figure } from "./figure.js";
import { PIXELS, Pad, drawImage } from "./images.js";
import { Plane } from "./plane.js";
import { generator, normal } from "./random.js";
import { euler, grid, heun } from "./solvers.js";

const COUNT = 10;
const COLUMNS = 5;
const EXTENT = 2; // of the square of noises that one drags through
const SECONDS = 2.5; // to play it again
const DRAWN_STEPS = 25; // of Heun's method, to noise: the bits are 0.04 fewer than with 100
const SPREAD = 0.3; // standard deviation of the bits of test digits, in the lab's numbers
const SIZES = { mnist: 6, "mnist-one-step": 2 }; // megabytes to load, the first with its program
const NETWORKS = { "the flow": "mnist", "distilled, one step": "mnist-one-step" };
const CLASSES = { "one of each": null, none: NO_LABEL };
for (let digit = 0; digit < 10; digit++) CLASSES[`digit ${digit}`] = digit;

export function start(element) {
  const figure = new Figure(element, "Network, class, guidance, sampler, evaluations and time");
  const plane = new Plane(figure, EXTENT, "Ten images: upper rows states, lower rows predictions.");
  let [network, label, scale, method, budget] = ["mnist", null, 1, "heun", 19];
  let [t, seed, place, busy, stale, follow] = [0, 1, [0, 0], false, false, true];
  let [noises, states, took, drawn, bits] = [[], [], 0, "", ""];
  let networks = null; // the worker
  const loaded = {};
  let [controls, ofFlow, time, play] = [[], [], null, null]; // once it is loaded

  function newNoise() {
    const uniform = generator(seed);
    noises = [0, 1, 2].map(() => normal(uniform, COUNT * PIXELS));
    place = [0, 0];
    drawn = bits = "";
  }

  const noise = () => turned(noises, ...place);

  figure.draw = () => {
    const steps = states.steps ?? 1;
    const index = Math.min(Math.round(t * steps), states.length - 1);
    const { x, prediction } = states[index] ?? { x: noise() };
    const unit = plane.side / COLUMNS;
    const context = plane.context;
    plane.clear();
    context.font = "13px sans-serif";
    for (let row = 0; row < 4; row++) {
      const [below, top] = [row % 2, row * (unit + unit / 4) + unit / 4];
      context.fillStyle = plane.colour(below ? "model" : "noise");
      context.fillText(below ? "predicted" : `t = ${t.toFixed(2)}`, 4, top - 4);
      for (let column = 0; column < COLUMNS; column++) {
        const i = COLUMNS * Math.floor(row / 2) + column;
        const pixels = (below ? prediction : x)?.subarray(i * PIXELS, (i + 1) * PIXELS);
        if (pixels) drawImage(context, pixels, column * unit + 1, top, unit - 2);
      }
    }
    pad.draw();
    if (loaded[network]) figure.say(words());
  };

  function words() {
    const oneStep = network === "mnist-one-step";
    const count = oneStep ? 1 : evaluations(method, affordable(method, budget));
    const twice = oneStep || scale === 0 || scale === 1 ? "" : ", each of two of the network";
    const spent = states.done ? `, ${took.toFixed(2)} s for all ten` : "";
    const from = drawn || (place[0] || place[1] ? "noise turned by you" : "noise");
    if (oneStep) {
      return `${bits}From ${from}, one evaluation${spent}. Drag across the images to turn it.`;
    }
    const seen = drawn
      ? "" // enough is said
      : t === 0
        ? "The first prediction is the mean of the class, whatever the noise."
        : t < 0.6
          ? "The predictions are still blurred: each is the mean of many digits."
          : "Now the predictions hardly change.";
    return `${bits}From ${from}, ${count} evaluations${twice}${spent}. ${seen}`;
  }

  const labels = () => Array.from({ length: COUNT }, (_, i) => label ?? i);

  /** Sample anew; what is asked for on the way takes the place of what is under way. */
  async function run() {
    stale = true;
    if (busy || !loaded[network]) return;
    busy = true;
    try {
      while (stale) {
        stale = false;
        await once();
      }
    } catch (error) {
      fail(error);
    } finally {
      busy = false;
    }
  }

  async function once() {
    const oneStep = network === "mnist-one-step";
    const field = guided(loaded[network], labels(), oneStep ? 1 : scale);
    const steps = oneStep ? 1 : affordable(method, budget);
    const begun = performance.now();
    const made = Object.assign([], { steps });
    const step = oneStep ? euler : SAMPLERS[method];
    stop();
    for await (const state of sample(field, noise(), grid(steps), step)) {
      if (stale && made.length) return;
      made.push(state);
      states = made;
      if (follow) setTime(oneStep ? 0 : state.t);
      took = (performance.now() - begun) / 1000;
      states.done = made.length > steps;
      if (!figure.calm || states.done) figure.draw();
    }
  }

  /** Load a network if it is not there, and sample. */
  async function load(name) {
    try {
      if (!loaded[name]) {
        figure.say(`Loading ${SIZES[name]} MB…`);
        if (typeof WebAssembly !== "object") throw new Error("this browser has no WebAssembly");
        networks ??= new Networks();
        loaded[name] = await networks.network(name);
      }
      const first = controls.length === 0;
      if (first) addControls();
      show();
      if (first && pad.pen) await carry(pad.image); // drawn while there was no network
      else again();
    } catch (error) {
      fail(error);
    }
  }

  function fail(error) {
    networks?.lose(error.message);
    networks = null;
    for (const name of Object.keys(loaded)) delete loaded[name];
    begin.textContent = "Load the network again";
    show();
    figure.say(`No digits can be made: ${error.message}. A picture stands here instead.`);
    if (figure.seen) begin.scrollIntoView({ block: "nearest" }); // the stage has shrunk above it
  }

  /** Show the figure, or after a failure its picture; switch on the controls that work now. */
  function show() {
    const works = Boolean(loaded[network]);
    element.classList.toggle("failed", !works);
    for (const { canvas } of [plane, pad]) {
      canvas.style.display = works ? "" : "none";
    }
    begin.hidden = works;
    begin.disabled = false;
    for (const control of controls) control.disabled = !works;
    for (const control of ofFlow) control.disabled = !works || network === "mnist-one-step";
  }

  const begin = figure.button(`Load the network, ${SIZES.mnist} MB`, async () => {
    begin.disabled = true;
    await load(network);
  });

  function setTime(value) {
    t = value;
    time.set(t);
  }

  function stop() {
    figure.pause();
    if (play) play.textContent = "Play";
  }

  function replay() {
    if (t >= 1) t = 0;
    play.textContent = "Pause";
    figure.play((passed) => {
      setTime(Math.min(1, t + passed / SECONDS));
      figure.draw();
      if (t === 1) stop();
    });
  }

  function again() {
    follow = true;
    run();
  }

  function addControls() {
    const which = figure.choice("network", Object.keys(NETWORKS), (name) => {
      network = NETWORKS[name];
      load(network);
    });
    const kind = figure.choice("class", Object.keys(CLASSES), (name) => {
      label = CLASSES[name];
      again();
    });
    const guidance = figure.slider(
      "guidance s",
      { min: 0, max: 4, step: 0.5, value: scale, show: (v) => v.toFixed(1) },
      (value) => {
        scale = value;
        again();
      },
    );
    const sampler = figure.choice("sampler", Object.keys(SAMPLERS), (name) => {
      method = name;
      again();
    });
    sampler.value = method;
    const most = figure.slider(
      "evaluations",
      { min: 1, max: 49, step: 2, value: budget, show: String },
      (value) => {
        budget = value;
        again();
      },
    );
    time = figure.slider("time t", { min: 0, max: 1, step: 0.01, value: t }, (value) => {
      follow = false;
      stop();
      t = value;
      figure.draw();
    });
    play = figure.button("Play", () => (figure.playing ? stop() : replay()));
    const fresh = figure.button("New noise", () => {
      seed += 1;
      newNoise();
      again();
    });
    ofFlow = [guidance.input, sampler, most.input];
    controls = [which, kind, ...ofFlow, time.input, play, fresh];
  }

  /** A sentence on the bits of a drawing, beside those that the caption has from the lab. */
  function compared(found) {
    const typical = Number.parseFloat(element.querySelector("figcaption .pasted-text").textContent);
    const off = (found - typical) / SPREAD;
    const many = off > 1 ? "more than" : off < -1 ? "fewer than" : "as many as";
    const said = `about ${found.toFixed(1)} bits per dimension`;
    return `Your drawing has ${said}, ${many} a typical digit (${typical}). `;
  }

  async function carry(drawing) {
    try {
      loaded.mnist ??= await networks.network("mnist"); // the flow's way back: the other has none
      figure.say("The flow carries your drawing to noise and back…");
      const times = wayToNoise(DRAWN_STEPS);
      const uniform = generator(seed);
      const x = dequantised(drawing, uniform);
      const probe = rademacher(uniform, PIXELS);
      const three = guided(loaded.mnist, [NO_LABEL, NO_LABEL, NO_LABEL], 0);
      const { noise, logProb } = await logLikelihood(three, x, times, heun, probe);
      const field = guided(loaded.mnist, [NO_LABEL], 0);
      const back = await last(field, noise, times.toReversed(), heun);
      const off = x.map((value, i) => Math.abs(greyLevel(value) - greyLevel(back[i])));
      const mean = (values) => values.reduce((sum, value) => sum + value, 0) / PIXELS;
      const spread = Math.sqrt(mean(noise.map((value) => value * value)));
      for (let i = 0; i < COUNT; i++) noises[0].set(noise, i * PIXELS);
      place = [0, 0];
      bits = compared(bitsPerDimension(logProb, PIXELS));
      drawn =
        `its noise (spread ${spread.toFixed(2)} instead of 1; carried back off by ` +
        `${mean(off).toFixed(1)} of 255 grey levels)`;
      again();
    } catch (error) {
      fail(error);
    }
  }

  plane.handle(
    () => place,
    (x, y) => {
      place = [x, y];
      if (loaded[network]) again();
      else figure.draw();
    },
  );

  const pad = new Pad(
    figure,
    "A place to draw a digit, which the flow carries to the noise of all ten.",
    "Draw a digit",
    (drawing) => {
      if (loaded[network]) carry(drawing);
      else if (!networks) figure.say("Load the network: its flow carries your drawing to noise.");
    },
  );
  newNoise();
  figure.draw();
  figure.say(
    `Ten images of noise. The network that makes digits of them is ${SIZES.mnist} MB: load it ` +
      "to see them form. It then runs in this page.",
  );
}
