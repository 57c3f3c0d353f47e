// A multilayer perceptron with its gradient and Adam, as fmtutorial.networks.MLP in the plane.
// Chapter 3.
//
// All weights are one Float64Array: for each layer its matrix, row by row, then its bias.

const silu = (z) => z / (1 + Math.exp(-z));
const siluSlope = (z) => {
  const s = 1 / (1 + Math.exp(-z));
  return s * (1 + z * (1 - s));
};

export class MLP {
  constructor({ width = 64, depth = 3, frequencies = 4 } = {}, uniform = Math.random) {
    this.frequencies = frequencies;
    this.sizes = [2 + 1 + 2 * frequencies, ...Array(depth).fill(width), 2];
    this.layers = [];
    let place = 0;
    for (let l = 0; l + 1 < this.sizes.length; l++) {
      const [inputs, outputs] = [this.sizes[l], this.sizes[l + 1]];
      this.layers.push({ inputs, outputs, matrix: place, bias: place + inputs * outputs });
      place += (inputs + 1) * outputs;
    }
    this.weights = new Float64Array(place);
    for (const { inputs, outputs, matrix } of this.layers) {
      const bound = 1 / Math.sqrt(inputs); // PyTorch's default for linear layers
      for (let i = 0; i < (inputs + 1) * outputs; i++) {
        this.weights[matrix + i] = bound * (2 * uniform() - 1);
      }
    }
  }

  /** What the first layer sees of points and their times: x, t, sin kπt, cos kπt. */
  features(x, t) {
    const size = this.sizes[0];
    const out = new Float64Array(t.length * size);
    for (let i = 0; i < t.length; i++) {
      const row = i * size;
      out[row] = x[2 * i];
      out[row + 1] = x[2 * i + 1];
      out[row + 2] = t[i];
      for (let k = 1; k <= this.frequencies; k++) {
        out[row + 2 + k] = Math.sin(k * Math.PI * t[i]);
        out[row + 2 + this.frequencies + k] = Math.cos(k * Math.PI * t[i]);
      }
    }
    return out;
  }

  /** Inputs and sums of all layers for a batch: {inputs: [...], sums: [...]}; the last sum is v. */
  pass(x, t) {
    const n = t.length;
    const w = this.weights;
    const inputs = [this.features(x, t)];
    const sums = [];
    this.layers.forEach((layer, l) => {
      const seen = inputs[l];
      const sum = new Float64Array(n * layer.outputs);
      for (let i = 0; i < n; i++) {
        for (let o = 0; o < layer.outputs; o++) {
          let value = w[layer.bias + o];
          const row = layer.matrix + o * layer.inputs;
          const from = i * layer.inputs;
          for (let k = 0; k < layer.inputs; k++) value += w[row + k] * seen[from + k];
          sum[i * layer.outputs + o] = value;
        }
      }
      sums.push(sum);
      if (l + 1 < this.layers.length) inputs.push(sum.map(silu));
    });
    return { inputs, sums };
  }

  /** v(x, t) at points, with one time for all or a time for each. */
  velocity(x, t) {
    const times = typeof t === "number" ? new Float64Array(x.length / 2).fill(t) : t;
    return this.pass(x, times).sums.at(-1);
  }

  /** The mean over the batch of ‖v(x, t) − target‖², and its gradient in the weights. */
  lossAndGradient(x, t, target) {
    const n = t.length;
    const w = this.weights;
    const { inputs, sums } = this.pass(x, t);
    let loss = 0;
    let back = sums.at(-1).map((value, i) => {
      loss += (value - target[i]) ** 2 / n;
      return (2 * (value - target[i])) / n;
    });
    const gradient = new Float64Array(w.length);
    for (let l = this.layers.length - 1; l >= 0; l--) {
      const layer = this.layers[l];
      const seen = inputs[l];
      const before = new Float64Array(n * layer.inputs);
      for (let i = 0; i < n; i++) {
        const from = i * layer.inputs;
        for (let o = 0; o < layer.outputs; o++) {
          const slope = back[i * layer.outputs + o];
          const row = layer.matrix + o * layer.inputs;
          gradient[layer.bias + o] += slope;
          for (let k = 0; k < layer.inputs; k++) {
            gradient[row + k] += slope * seen[from + k];
            before[from + k] += slope * w[row + k];
          }
        }
      }
      if (l > 0) back = before.map((value, i) => value * siluSlope(sums[l - 1][i]));
    }
    return { loss, gradient };
  }
}

/** Adam, Kingma and Ba 2015, on weights in place. */
export class Adam {
  constructor(size) {
    this.mean = new Float64Array(size);
    this.square = new Float64Array(size);
    this.steps = 0;
  }

  step(weights, gradient, rate, decay = [0.9, 0.999], small = 1e-8) {
    this.steps += 1;
    const meanScale = 1 - decay[0] ** this.steps;
    const squareScale = 1 - decay[1] ** this.steps;
    for (let i = 0; i < weights.length; i++) {
      this.mean[i] += (1 - decay[0]) * (gradient[i] - this.mean[i]);
      this.square[i] += (1 - decay[1]) * (gradient[i] ** 2 - this.square[i]);
      const size = Math.sqrt(this.square[i] / squareScale) + small;
      weights[i] -= (rate * (this.mean[i] / meanScale)) / size;
    }
  }
}
