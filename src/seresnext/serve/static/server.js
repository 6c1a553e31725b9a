// The answers of the server that this page came from.

export const atOnce = 8; // images a request: few, so that the first answers come soon

/** The models' names, the first one being the server's own choice. */
export async function models() {
  const answer = await json(await fetch("v2"));
  return answer.models;
}

/** Predictions for image files, in order: {file, top: [{class, probability}]} or {file, error}. */
export async function predict(files, model) {
  const body = new FormData();
  for (const file of files) body.append("image", file, file.name);
  const query = new URLSearchParams({ model, top: "5" });
  const answer = await json(await fetch(`predict?${query}`, { method: "POST", body }));
  return answer.predictions;
}

async function json(response) {
  const text = await response.text();
  let answer = {};
  try {
    answer = JSON.parse(text);
  } catch {
    answer = { error: text };
  }
  if (!response.ok) throw new Error(answer.error || `the server answered ${response.status}`);
  return answer;
}
