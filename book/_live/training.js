// Flow matching in the plane, as in the lab of chapter 3: points on lines from noise to data, Adam,
// an average of the weights; and what the exact field says about the network.

import { ExactField } from "./exact.js";
import { Adam, EMA, MLP } from "./mlp.js";
import { generator, normal, sample } from "./random.js";
import { LINEAR } from "./schedules.js";
import { grid, heun, solve } from "./solvers.js";

const UNITS = 32; // in each of three layers: enough for the plane, and 900 updates a second
const BATCH = 128;
const DECAY = 0.998; // of the average
const FLOOR_PROBES = 6000; // the floor to about half a per cent
const ERROR_PROBES = 500;
const LATEST = 0.98; // of the error's probes, as in the chapter
const SAMPLES = 400;
const STEPS = 12;

/** n times that fill [0, end] evenly, each at a random place of its n-th part. */
function spread(uniform, n, end) {
  return Float64Array.from({ length: n }, (_, i) => (end * (i + uniform())) / n);
}

export class Training {
  constructor(target, seed) {
    this.target = target;
    this.uniform = generator(seed);
    this.network = new MLP({ width: UNITS }, this.uniform);
    this.averaged = new MLP({ width: UNITS }, this.uniform); // shows the average
    this.average = new EMA(this.network, DECAY);
    this.averaged.weights.set(this.average.weights);
    this.adam = new Adam(this.network.weights.length);
    this.updates = 0;
    const exact = new ExactField(LINEAR, target);
    const all = this.paths(spread(this.uniform, FLOOR_PROBES, 1));
    /** The loss of the exact field: the mean variance of the target given x_t. */
    this.floor = 0;
    all.t.forEach((t, i) => {
      this.floor += exact.targetVariance(all.x.subarray(2 * i, 2 * i + 2), t)[0] / FLOOR_PROBES;
    });
    this.probe = this.paths(spread(this.uniform, ERROR_PROBES, LATEST));
    this.truth = new Float64Array(2 * ERROR_PROBES);
    this.probe.t.forEach((t, i) => {
      this.truth.set(exact.velocity(this.probe.x.subarray(2 * i, 2 * i + 2), t), 2 * i);
    });
    this.noise = normal(generator(seed + 1), 2 * SAMPLES);
  }

  /** Points x_t of paths at times, with the velocities of their paths. */
  paths(t) {
    const x0 = normal(this.uniform, 2 * t.length);
    const x1 = sample(this.target, this.uniform, t.length);
    return {
      t,
      x: x0.map((noise, i) => (1 - t[i >> 1]) * noise + t[i >> 1] * x1[i]),
      velocity: x1.map((data, i) => data - x0[i]),
    };
  }

  /** One update on a new batch; return its loss. */
  update(rate) {
    const { t, x, velocity } = this.paths(Float64Array.from({ length: BATCH }, this.uniform));
    const { loss, gradient } = this.network.lossAndGradient(x, t, velocity);
    if (!Number.isFinite(loss)) throw new RangeError("the loss is no number any more, the learning rate is too high");
    this.adam.step(this.network.weights, gradient, rate);
    this.average.update(this.network);
    this.updates += 1;
    return loss;
  }

  /** The relative L² errors of the network and of its average on the probes. */
  errors() {
    this.averaged.weights.set(this.average.weights);
    return [this.network, this.averaged].map((network) => {
      const v = network.velocity(this.probe.x, this.probe.t);
      let [off, size] = [0, 0];
      this.truth.forEach((value, i) => {
        off += (v[i] - value) ** 2;
        size += value ** 2;
      });
      return Math.sqrt(off / size);
    });
  }

  /** The states of samples of the average on their way, always from the same noise. */
  samples() {
    this.averaged.weights.set(this.average.weights);
    return solve((x, t) => this.averaged.velocity(x, t), this.noise, grid(STEPS), heun);
  }
}
