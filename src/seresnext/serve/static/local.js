// The answers of a network in this browser, computed by worker.js; the same names as in server.js.

export const atOnce = 1; // one image takes some tenths of a second: each answer is shown as it comes

const waiting = new Map(); // number of a message -> what takes its answer
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
let sent = 0;
let report = () => {};

worker.addEventListener("message", ({ data: { number, progress, answer, error } }) => {
  if (progress) {
    report(progress);
    return;
  }
  const { resolve, reject } = waiting.get(number);
  waiting.delete(number);
  if (error) reject(new Error(error));
  else resolve(answer);
});
const lost = new Promise((_, reject) => {
  const reason = "a file of this page is missing or damaged, or the browser is too old";
  worker.addEventListener("error", () => reject(new Error(reason)));
});

function ask(message) {
  const answer = new Promise((resolve, reject) => {
    waiting.set(++sent, { resolve, reject });
    worker.postMessage({ number: sent, ...message });
  });
  return Promise.race([answer, lost]);
}

/** The name of the one model, once it is loaded; `progress` is called with a text until then. */
export async function models(progress) {
  report = progress;
  return [await ask({})];
}

/** Predictions for image files, in order: {file, top: [{class, probability}]} or {file, error}. */
export function predict(files) {
  return Promise.all(files.map((file) => ask({ file })));
}
