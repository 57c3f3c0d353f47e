// The U-Net of fmtutorial.networks, as a graph for onnxruntime, with the package's own weights.
// Chapter 8. The names of parts and weights are the package's.

import { Graph, TYPES } from "./onnx.js";

/** A file of fmtutorial.images.save_weights: {labels, weights: {name: {shape, numbers}}}. */
export function readWeights(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const { __metadata__: metadata, ...tensors } = header;
  const { kind, arguments: given } = JSON.parse(metadata.fmtutorial);
  if (kind !== "unet") throw new Error(`these are weights of a ${kind}`);
  const weights = {};
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(tensors)) {
    if (dtype !== "F16") throw new Error(`${name} is not in half precision`);
    const [from, to] = data_offsets;
    weights[name] = { shape, numbers: new Uint8Array(buffer, 8 + length + from, to - from) };
  }
  return { labels: given.labels, weights };
}

/** The network as an ONNX file: x (B, 1, side, side), t (B,), label (B,) → v, for every B. */
export function unet({ labels, weights }, side = 28) {
  const graph = new Graph();
  const op = graph.node.bind(graph);
  const integers = (values) =>
    graph.tensor(TYPES.INT64, [values.length], BigInt64Array.from(values.map(BigInt)));
  const reshape = (x, ...sizes) => op("Reshape", [x, integers(sizes)]); // 0: as it is

  /** Weights lie in half precision; the runtime makes single precision of them once. */
  const weight = (name, shape = weights[name].shape) =>
    op("Cast", [graph.tensor(TYPES.FLOAT16, shape, weights[name].numbers, name)], {
      to: TYPES.FLOAT,
    });
  const channels = (name) => weights[`${name}.bias`].shape[0];
  const both = (name) => [weight(`${name}.weight`), weight(`${name}.bias`)];

  const silu = (x) => op("Mul", [x, op("Sigmoid", [x])]);
  const linear = (name, x) => op("Gemm", [x, ...both(name)], { transB: 1 });
  const conv = (name, x, attributes) => op("Conv", [x, ...both(name)], attributes);
  const wide = (name, x) => conv(name, x, { pads: [1, 1, 1, 1] });
  const one = graph.tensor(TYPES.FLOAT, [1], Float32Array.of(1));
  const zero = graph.tensor(TYPES.FLOAT, [1], Float32Array.of(0));

  /** GroupNorm with one group: over all numbers of an image. */
  function norm(name, x, size) {
    const flat = op("InstanceNormalization", [reshape(x, 0, 1, -1), one, zero], { epsilon: 1e-5 });
    const h = reshape(flat, 0, -1, size, size);
    const shape = [channels(name), 1, 1];
    const scaled = op("Mul", [h, weight(`${name}.weight`, shape)]);
    return op("Add", [scaled, weight(`${name}.bias`, shape)]);
  }

  function residualBlock(name, x, e, size) {
    const modulation = reshape(linear(`${name}.modulate`, e), 0, -1, 1, 1);
    const [scale, shift] = op("Split", [modulation], { axis: 1 }, 2);
    const first = wide(`${name}.first.2`, silu(norm(`${name}.first.0`, x, size)));
    const scaled = op("Mul", [norm(`${name}.norm`, first, size), op("Add", [one, scale])]);
    const h = op("Add", [scaled, shift]);
    const skip = `${name}.skip.bias` in weights ? conv(`${name}.skip`, x) : x;
    return op("Add", [skip, wide(`${name}.second`, silu(h))]);
  }

  function attention(name, x, size) {
    const parts = reshape(conv(`${name}.enter`, norm(`${name}.norm`, x, size)), 0, 0, -1);
    const [q, k, v] = op("Split", [parts], { axis: 1 }, 3); // (B, C, H·W) each
    const root = Math.sqrt(channels(`${name}.leave`));
    const scale = graph.tensor(TYPES.FLOAT, [1], Float32Array.of(1 / root));
    const turn = (x) => op("Transpose", [x], { perm: [0, 2, 1] });
    const agreement = op("MatMul", [turn(op("Mul", [q, scale])), k]);
    const shares = op("Softmax", [agreement], { axis: -1 }); // of each place among all
    const h = op("MatMul", [v, turn(shares)]);
    return op("Add", [x, conv(`${name}.leave`, reshape(h, 0, 0, size, size))]);
  }

  function embed() {
    const n = weights["embed.time.0.weight"].shape[1] / 2;
    const frequencies = Float32Array.from({ length: n }, (_, i) => 10 ** ((2 * i) / (n - 1)));
    const k = graph.tensor(TYPES.FLOAT, [1, n], frequencies);
    const angle = op("Mul", [reshape("t", -1, 1), k]);
    const waves = op("Concat", [op("Sin", [angle]), op("Cos", [angle])], { axis: 1 });
    const time = linear("embed.time.2", silu(linear("embed.time.0", waves)));
    return op("Add", [time, op("Gather", [weight("embed.label.weight"), "label"])]);
  }

  const fine = side / 2;
  const coarse = side / 4;
  const e = silu(embed());
  // patches of 2×2 pixels become channels
  const patches = op("Transpose", [reshape("x", 0, -1, fine, 2, fine, 2)], {
    perm: [0, 1, 3, 5, 2, 4],
  });
  let h = wide("enter", reshape(patches, 0, -1, fine, fine));
  const skip = residualBlock("fine_down", h, e, fine);
  h = conv("down", skip, { strides: [2, 2] });
  h = residualBlock("coarse_in", h, e, coarse);
  h = attention("attention", h, coarse);
  h = residualBlock("coarse_out", h, e, coarse);
  h = op("ConvTranspose", [h, ...both("up")], { strides: [2, 2] });
  h = residualBlock("fine_up", op("Concat", [h, skip], { axis: 1 }), e, fine);
  h = wide("leave.2", silu(norm("leave.0", h, fine)));
  h = op("Transpose", [reshape(h, 0, -1, 2, 2, fine, fine)], { perm: [0, 1, 4, 2, 5, 3] });
  const beside = op("Mul", [reshape(linear("beside", e), 0, 1, 1, 1), "x"]);
  const v = op("Add", [reshape(h, 0, -1, side, side), beside]);
  const { FLOAT, INT32 } = TYPES;
  const image = ["B", 1, side, side];
  return graph.file(
    [
      { name: "x", type: FLOAT, shape: image },
      { name: "t", type: FLOAT, shape: ["B"] },
      { name: "label", type: INT32, shape: ["B"] },
    ],
    { name: v, type: FLOAT, shape: image },
  );
}
