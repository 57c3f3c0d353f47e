// Runs the networks of chapter 8 beside the page, by onnxruntime-web on one thread of WebAssembly:
// more of them need headers that GitHub Pages does not send.

import { readWeights, unet } from "./unet.js";

const SIDE = 28;
const RUNTIME = new URL("../onnxruntime/", import.meta.url);
const PROGRAM = "ort-wasm-simd-threaded.wasm.gz";

async function fetched(address) {
  const response = await fetch(address);
  if (response.ok) return response;
  throw new Error(
    address.href.startsWith(RUNTIME.href)
      ? "this copy of the site was built without Node.js, and lacks onnxruntime-web, which runs it"
      : `the site has no ${address.pathname.split("/").at(-1)}`,
  );
}

async function loadRuntime() {
  const zipped = await (await fetched(new URL(PROGRAM, RUNTIME))).blob();
  // some servers say what it is, and then the browser has unpacked it already
  const [first, second] = new Uint8Array(await zipped.slice(0, 2).arrayBuffer());
  const isZipped = first === 0x1f && second === 0x8b;
  const program = isZipped ? zipped.stream().pipeThrough(new DecompressionStream("gzip")) : zipped;
  const ort = await import(new URL("ort.wasm.bundle.min.mjs", RUNTIME));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await new Response(program).arrayBuffer();
  return ort;
}

let runtime;
const sessions = {};

async function load(name) {
  const weights = fetched(new URL(`${name}.safetensors`, import.meta.url));
  runtime ??= loadRuntime().catch((error) => {
    runtime = undefined; // so that one can try again
    throw error;
  });
  const [ort, file] = await Promise.all([runtime, weights.then((found) => found.arrayBuffer())]);
  const options = { executionProviders: ["wasm"] };
  sessions[name] = await ort.InferenceSession.create(unet(readWeights(file)), options);
}

async function velocity({ name, x, t, label }) {
  const { Tensor } = await runtime;
  const n = label.length;
  const session = sessions[name];
  const answer = await session.run({
    x: new Tensor("float32", Float32Array.from(x), [n, 1, SIDE, SIDE]),
    t: new Tensor("float32", new Float32Array(n).fill(t), [n]),
    label: new Tensor("int32", Int32Array.from(label), [n]),
  });
  const v = Float64Array.from(answer[session.outputNames[0]].data);
  if (v.length !== n * SIDE * SIDE) throw new Error(`${v.length} numbers came for ${n} images`);
  return v;
}

async function answer({ id, load: wanted, ...request }) {
  try {
    postMessage({ id, answer: await (wanted ? load(wanted) : velocity(request)) });
  } catch (error) {
    postMessage({ id, error: error.message || `${error}` });
  }
}

let before = Promise.resolve();
onmessage = ({ data }) => {
  before = before.then(() => answer(data)); // a session takes one question at a time
};
