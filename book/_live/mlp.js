// A multilayer perceptron with its gradient, as fmtutorial.networks.MLP in the plane, Adam, and an
// average of weights. Chapter 3.
//
// All weights are one Float64Array: for each layer its matrix, row by row, then its bias. What a
// batch needs is kept for the next batch of the same size, so that training makes no garbage.

/**
 * out[i columns + j] = Σₖ a[i aRow + k aStep] b[j bRow + k bStep]: a product of two matrices, each
 * read by rows or by columns. Eight sums at a time, so that a number is read once for several.
 */
function product(out, rows, columns, depth, a, aRow, aStep, b, bRow, bStep) {
  const [wholeRows, wholeColumns] = [rows - (rows % 4), columns - (columns % 2)];
  for (let i = 0; i < wholeRows; i += 4) {
    for (let j = 0; j < wholeColumns; j += 2) {
      let s00 = 0, s01 = 0, s10 = 0, s11 = 0, s20 = 0, s21 = 0, s30 = 0, s31 = 0;
      let p = i * aRow;
      let q = j * bRow;
      for (let k = 0; k < depth; k++) {
        const a0 = a[p], a1 = a[p + aRow], a2 = a[p + 2 * aRow], a3 = a[p + 3 * aRow];
        const b0 = b[q], b1 = b[q + bRow];
        s00 += a0 * b0; s01 += a0 * b1;
        s10 += a1 * b0; s11 += a1 * b1;
        s20 += a2 * b0; s21 += a2 * b1;
        s30 += a3 * b0; s31 += a3 * b1;
        p += aStep;
        q += bStep;
      }
      const at = i * columns + j;
      out[at] = s00; out[at + 1] = s01;
      out[at + columns] = s10; out[at + columns + 1] = s11;
      out[at + 2 * columns] = s20; out[at + 2 * columns + 1] = s21;
      out[at + 3 * columns] = s30; out[at + 3 * columns + 1] = s31;
    }
  }
  for (let i = 0; i < rows; i++) {
    for (let j = i < wholeRows ? wholeColumns : 0; j < columns; j++) {
      let sum = 0;
      for (let k = 0; k < depth; k++) sum += a[i * aRow + k * aStep] * b[j * bRow + k * bStep];
      out[i * columns + j] = sum;
    }
  }
}

export class MLP {
  constructor({ width = 64, depth = 3, frequencies = 4 } = {}, uniform = Math.random) {
    this.frequencies = frequencies;
    this.sizes = [2 + 1 + 2 * frequencies, ...Array(depth).fill(width), 2];
    this.layers = [];
    let place = 0;
    for (let l = 0; l + 1 < this.sizes.length; l++) {
      const [inputs, outputs] = [this.sizes[l], this.sizes[l + 1]];
      this.layers.push({ inputs, outputs, place });
      place += (inputs + 1) * outputs;
    }
    this.weights = new Float64Array(place);
    this.gradient = new Float64Array(place);
    this.rooms = new Map(); // by the size of a batch
    for (const layer of this.layers) {
      this.cut(layer, "weights");
      this.cut(layer, "gradient");
      const bound = 1 / Math.sqrt(layer.inputs); // PyTorch's default for linear layers
      for (let i = 0; i < (layer.inputs + 1) * layer.outputs; i++) {
        this.weights[layer.place + i] = bound * (2 * uniform() - 1);
      }
    }
  }

  /** The part of all weights, or of the gradient, that is a layer's: {matrix, bias}. */
  cut(layer, name) {
    const bias = layer.place + layer.inputs * layer.outputs;
    layer[name] = {
      matrix: this[name].subarray(layer.place, bias),
      bias: this[name].subarray(bias, bias + layer.outputs),
    };
  }

  /** Arrays for a batch of n: what each layer sees, what comes back to it, the slopes of SiLU. */
  room(n) {
    if (!this.rooms.has(n)) {
      const arrays = () => this.sizes.map((size) => new Float64Array(n * size));
      this.rooms.set(n, { seen: arrays(), back: arrays(), slopes: arrays() });
    }
    return this.rooms.get(n);
  }

  /** What the first layer sees of points and their times: x, t, sin kπt, cos kπt. */
  features(x, t, out) {
    const size = this.sizes[0];
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
  }

  /** Fill the room of a batch; the last that is seen is v. */
  pass(x, t) {
    const n = t.length;
    const room = this.room(n);
    this.features(x, t, room.seen[0]);
    this.layers.forEach(({ inputs, outputs, weights }, l) => {
      const out = room.seen[l + 1];
      const slopes = room.slopes[l + 1];
      const { matrix, bias } = weights;
      product(out, n, outputs, inputs, room.seen[l], inputs, 1, matrix, inputs, 1);
      const last = l + 1 === this.layers.length;
      for (let i = 0, o = 0; i < out.length; i++, o = o + 1 === outputs ? 0 : o + 1) {
        const z = out[i] + bias[o];
        if (last) {
          out[i] = z;
        } else {
          const s = 1 / (1 + Math.exp(-z));
          out[i] = z * s; // SiLU
          slopes[i] = s * (1 + z * (1 - s));
        }
      }
    });
    return room;
  }

  /** v(x, t) at points, with one time for all or a time for each. */
  velocity(x, t) {
    const times = typeof t === "number" ? new Float64Array(x.length / 2).fill(t) : t;
    return this.pass(x, times).seen.at(-1).slice();
  }

  /**
   * The mean over the batch of ‖v(x, t) − target‖², and its gradient in the weights, which the next
   * call overwrites.
   */
  lossAndGradient(x, t, target) {
    const n = t.length;
    const { seen, back, slopes } = this.pass(x, t);
    let loss = 0;
    const off = back.at(-1);
    seen.at(-1).forEach((value, i) => {
      loss += (value - target[i]) ** 2 / n;
      off[i] = (2 * (value - target[i])) / n;
    });
    for (let l = this.layers.length - 1; l >= 0; l--) {
      const { inputs, outputs, weights, gradient } = this.layers[l];
      const from = back[l + 1];
      product(gradient.matrix, outputs, inputs, n, from, 1, outputs, seen[l], 1, inputs);
      gradient.bias.fill(0);
      for (let i = 0; i < from.length; i += outputs) {
        for (let o = 0; o < outputs; o++) gradient.bias[o] += from[i + o];
      }
      if (l === 0) break;
      product(back[l], n, inputs, outputs, from, outputs, 1, weights.matrix, 1, inputs);
      for (let i = 0; i < back[l].length; i++) back[l][i] *= slopes[l][i];
    }
    return { loss, gradient: this.gradient };
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

/** An exponential moving average of a network's weights, as fmtutorial.training.EMA. */
export class EMA {
  constructor(network, decay = 0.999) {
    this.weights = network.weights.slice();
    this.decay = decay;
    this.updates = 0;
  }

  update(network) {
    this.updates += 1;
    const decay = Math.min(this.decay, (1 + this.updates) / (10 + this.updates));
    for (let i = 0; i < this.weights.length; i++) {
      this.weights[i] += (1 - decay) * (network.weights[i] - this.weights[i]);
    }
  }
}
