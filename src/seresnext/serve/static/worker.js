// Loads the network, and answers for one image file after another.

import * as ort from "./ort/ort.js";
import { preprocess } from "./preprocess.js";

const TOP = 5;
const here = (path) => new URL(path, import.meta.url);
const loading = load();
let last = Promise.resolve(); // the message before: one image is in memory at a time

onmessage = ({ data: { number, file } }) => {
  last = last.then(async () => {
    try {
      const model = await loading;
      postMessage({ number, answer: file ? await predict(model, file) : model.name });
    } catch (error) {
      postMessage({ number, error: error.message });
    }
  });
};

async function load() {
  const model = await (await get(here("../model.json"))).json();
  // By content, so that a browser does not take the file of an earlier export from its cache.
  const address = here(`../model.onnx?${model.sha256}`);
  const [network, runtime] = await Promise.all([download(address, model.bytes), get(here("ort/ort.wasm"))]);
  ort.env.wasm.wasmBinary = await runtime.arrayBuffer();
  ort.env.logLevel = "error";
  return { ...model, session: await ort.InferenceSession.create(network) };
}

async function get(address) {
  const name = address.pathname.split("/").pop();
  const response = await fetch(address).catch(() => ({ statusText: "no connection" }));
  if (!response.ok) throw new Error(`${name}: ${response.status || ""} ${response.statusText}`);
  return response;
}

/** The file's content, which has so many bytes. */
async function download(address, bytes) {
  const reader = (await get(address)).body.getReader();
  const content = new Uint8Array(bytes);
  let have = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (have + value.length <= bytes) content.set(value, have);
    have += value.length;
    const mega = (count) => (count / 1e6).toFixed(0);
    postMessage({ progress: `Loading the model: ${mega(have)} of ${mega(bytes)} MB` });
  }
  if (have !== bytes) throw new Error(`model.onnx has ${have} bytes, not ${bytes}; copy it again`);
  return content;
}

async function predict({ session, input, class_names: names }, file) {
  const pixels = await preprocess(file, input);
  const side = input.image_size;
  const tensor = new ort.Tensor("uint8", pixels, [1, side, side, 3]);
  const { logits } = await session.run({ pixel_values: tensor });
  const probabilities = softmax(logits.data);
  if (!probabilities.every(Number.isFinite)) {
    throw new Error("the model answers NaN or infinity");
  }
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  const top = order.slice(0, TOP).map((i) => ({ class: names[i], probability: probabilities[i] }));
  return { file: file.name, top };
}

function softmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const shares = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = shares.reduce((a, b) => a + b);
  return shares.map((share) => share / sum);
}
