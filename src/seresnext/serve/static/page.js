// The page: images in, a card each with the most probable classes. All text from files and classes
// is set as text, never as HTML. What answers is server.js or local.js: <html data-backend>.

const find = (id) => document.getElementById(id);
const rows = []; // {file, top, error} of everything shown, for the CSV
let backend = { atOnce: 1, predict: () => Promise.reject(new Error("the page has not started")) };

async function start() {
  find("halted").remove();
  try {
    backend = await import(`./${document.documentElement.dataset.backend}.js`);
    const names = await backend.models((progress) => (find("about").textContent = progress));
    for (const name of names) find("model").append(new Option(name, name));
    find("choose").hidden = names.length < 2;
    find("about").textContent = `Model: ${names.join(", ")}`;
  } catch (error) {
    find("about").textContent = `The model cannot be used: ${error.message}`;
  }
}

async function classify(list) {
  const files = [...list];
  if (!files.length) return;
  const cards = files.map(addCard);
  find("csv").hidden = find("clear").hidden = false;
  await ready;
  const { atOnce, predict } = backend;
  const begin = performance.now();
  let failed = 0;
  for (let i = 0; i < files.length; i += atOnce) {
    say(`Classifying ${i + 1} of ${files.length}`);
    const some = files.slice(i, i + atOnce);
    let answers;
    try {
      answers = await predict(some, find("model").value);
    } catch (error) {
      answers = some.map(() => ({ error: error.message }));
    }
    answers.forEach((answer, k) => {
      failed += answer.error ? 1 : 0;
      rows.push({ ...answer, file: some[k].name });
      fill(cards[i + k], answer);
    });
  }
  const seconds = ((performance.now() - begin) / 1000).toFixed(2);
  const trouble = failed ? `, ${failed} of them without an answer` : "";
  say(`${files.length} ${files.length === 1 ? "image" : "images"} in ${seconds} s${trouble}`);
}

function addCard(file) {
  const image = new Image();
  image.alt = "";
  image.src = URL.createObjectURL(file);
  image.addEventListener("error", () => image.remove()); // what the browser cannot show
  const answer = element("div", "answer");
  answer.append(element("p", "file faint", file.name));
  const card = document.createElement("li");
  card.append(image, answer);
  find("results").prepend(card);
  return answer;
}

function fill(card, answer) {
  if (answer.error) {
    card.append(element("p", "error", answer.error));
    return;
  }
  const classes = element("dl", "classes");
  for (const { class: name, probability } of answer.top) {
    const bar = document.createElement("progress");
    bar.value = probability;
    bar.setAttribute("aria-hidden", "true");
    classes.append(element("dt", "", name), element("dd", "", percent(probability)), bar);
  }
  card.append(classes);
  if (answer.cam) {
    const seen = new Image();
    seen.alt = seen.title = `Where the network sees ${answer.cam.class}`;
    seen.src = answer.cam.picture;
    card.before(seen);
  }
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const say = (text) => (find("status").textContent = text);

/** One line of a CSV file. A cell that a spreadsheet would take for a formula gets a quote before it. */
function csvLine(cells) {
  const safe = cells.map((cell) => String(cell).replace(/^(?=[=+\-@\t\r])/, "'"));
  return safe.map((cell) => `"${cell.replaceAll('"', '""')}"`).join(",");
}

function download() {
  const lines = [csvLine(["file", "class", "probability", "error"])];
  for (const { file, top = [], error = "" } of rows) {
    const best = top[0] || { class: "", probability: "" };
    lines.push(csvLine([file, best.class, best.probability, error]));
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
  link.download = "predictions.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

function clear() {
  rows.length = 0;
  for (const image of find("results").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  find("results").replaceChildren();
  find("csv").hidden = find("clear").hidden = true;
  say("");
}

for (const id of ["files", "camera"]) {
  find(id).addEventListener("change", (event) => {
    classify(event.target.files);
    event.target.value = ""; // the same file again is an event, too
  });
}
find("csv").addEventListener("click", download);
find("clear").addEventListener("click", clear);
find("form").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("paste", (event) => classify(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  find("drop").classList.add("over");
});
document.addEventListener("dragleave", () => find("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  find("drop").classList.remove("over");
  classify(event.dataTransfer.files);
});
const ready = start(); // the models' names, without which no request says its model
