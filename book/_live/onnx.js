// A graph of tensor operations, written as an ONNX file: https://onnx.ai/onnx/repo-docs/IR.html.
// The format is protocol buffers: each field is its number and kind, then its value.

const FLOAT = 1; // numbers of the format for the types of tensors
const FLOAT16 = 10;
const INT32 = 6;
const INT64 = 7;
export const TYPES = { FLOAT, FLOAT16, INT32, INT64 };
const OPSET = 17; // the version of the operations
const IR = 8; // and that of the file's format

const utf8 = new TextEncoder();

function joined(parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let place = 0;
  for (const part of parts) {
    out.set(part, place);
    place += part.length;
  }
  return out;
}

/** A whole number, seven bits a byte, the lowest first; −1 has ten bytes. */
function varint(value) {
  const out = [];
  let left = BigInt.asUintN(64, BigInt(value));
  for (; left > 127n; left >>= 7n) out.push(Number(left & 127n) | 128);
  return [...out, Number(left)];
}

const whole = (field, value) => Uint8Array.from([...varint(8 * field), ...varint(value)]);

function bytes(field, value) {
  const content = typeof value === "string" ? utf8.encode(value) : value;
  return joined([[...varint(8 * field + 2), ...varint(content.length)], content]);
}

const message = (field, ...parts) => bytes(field, joined(parts));

function float(field, value) {
  return joined([varint(8 * field + 5), new Uint8Array(Float32Array.of(value).buffer)]);
}

/** A whole number, a list of them or a fraction, with its name. */
function attribute([name, value]) {
  const parts = Array.isArray(value)
    ? [...value.map((one) => whole(8, one)), whole(20, 7)]
    : Number.isInteger(value)
      ? [whole(3, value), whole(20, 2)]
      : [float(2, value), whole(20, 1)];
  return message(5, bytes(1, name), ...parts);
}

/** What the graph takes or gives: {name, type, shape}; a size that is a word may be any number. */
function described(field, { name, type, shape }) {
  const sizes = shape.map((size) =>
    message(1, typeof size === "string" ? bytes(2, size) : whole(1, size)),
  );
  const tensor = message(1, whole(1, type), message(2, ...sizes));
  return message(field, bytes(1, name), message(2, tensor));
}

export class Graph {
  constructor() {
    this.parts = [];
    this.count = 0;
  }

  /** Add an operation; return the name of its result, or a list of `results` names. */
  node(operation, inputs, attributes = {}, results = 1) {
    const names = Array.from({ length: results }, () => `${operation}-${this.count++}`);
    this.parts.push(
      message(
        1,
        ...inputs.map((name) => bytes(1, name)),
        ...names.map((name) => bytes(2, name)),
        bytes(4, operation),
        ...Object.entries(attributes).map(attribute),
      ),
    );
    return results === 1 ? names[0] : names;
  }

  /** Add a tensor of given numbers, a typed array; return its name. */
  tensor(type, shape, numbers, name = `tensor-${this.count++}`) {
    const raw = new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
    const sizes = shape.map((size) => whole(1, size));
    this.parts.push(message(5, ...sizes, whole(2, type), bytes(8, name), bytes(9, raw)));
    return name;
  }

  /** The file: a model that takes `inputs` and gives `output`. */
  file(inputs, output) {
    const ends = [...inputs.map((one) => described(11, one)), described(12, output)];
    const graph = message(7, bytes(2, "graph"), ...this.parts, ...ends);
    return joined([whole(1, IR), message(8, bytes(1, ""), whole(2, OPSET)), graph]);
  }
}
