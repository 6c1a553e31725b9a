// The answers of the server that this page came from.

export const atOnce = 8; // images a request: few, so that the first answers come soon

const withMaps = new Set(); // names of the models that give class activation maps

/** The models' names, the first one being the server's own choice. */
export async function models() {
  const answer = await json(await fetch("v2"));
  for (const name of answer.models) {
    const about = await json(await fetch(`v2/models/${name}`));
    if (about.parameters.class_activation_maps) withMaps.add(name);
  }
  return answer.models;
}

/** Predictions for image files, in order: {file, top: [{class, probability}]} or {file, error}.
    Where the model gives it, `cam` is the map of the first class: {class, picture}. */
export async function predict(files, model) {
  const body = new FormData();
  for (const file of files) body.append("image", file, file.name);
  const query = new URLSearchParams({ model, top: "5", cam: withMaps.has(model) ? "1" : "0" });
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
