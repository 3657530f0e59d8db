"use strict";
// The page sends to /invocations what any program can send. Texts of people are only set as text, never as HTML.

const { size, name, version, auto, request } = document.body.dataset;
const SIZE = Number(size);
const SMALL_FILE = 1000000; // bytes; a file of the right size is sent as it is, so that no pixel changes
const FRAME_MILLISECONDS = 90;
const FRAME_OF_RESULT = 44; // CSS pixels beside the pictures
const slots = { image: null, other: null }; // the input pictures: { bitmap, base64, title }
const mask = new Uint8Array(SIZE * SIZE);
const cursor = { x: SIZE >> 1, y: SIZE >> 1 };

const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const one = (selector, inside = document) => inside.querySelector(selector);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Width and height in CSS pixels: a whole multiple of the model's size, so that every pixel is a sharp square. */
function enlarge(picture, target) {
  const side = `${Math.max(1, Math.floor(target / SIZE)) * SIZE}px`;
  picture.style.width = side;
  picture.style.height = side;
  return picture;
}

function show() {
  const chosen = all(".task").find((task) => `#${task.id}` === location.hash) || one(".task");
  for (const task of all(".task")) task.hidden = task !== chosen;
  for (const link of all("nav a")) {
    if (link.hash === `#${chosen.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  scrollTo(0, 0); // the browser has scrolled to the task, past the header
}

/** Hide the fields that the chosen sampler or task does not use; hidden fields are not sent. */
function showUsedFields(form) {
  for (const field of all("[data-only]", form)) {
    const [key, value] = field.dataset.only.split("=");
    const select = form.elements[key];
    field.hidden = (select.value || select.dataset.own) !== value;
  }
}

/** A number if the text is one, else the text, about which the server's refusal says what is expected. */
function numberOf(text) {
  return text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
}

/** A whole number as text without leading zeros; it may have more digits than a number has here. */
const seedOf = (text) => (/^-?\d+$/.test(text) ? String(BigInt(text)) : text);

async function fieldsOf(form) {
  const fields = {};
  for (const input of form.elements) {
    const unused = !input.name || input.closest("[hidden]") || input.value.trim() === "";
    if (unused || (["radio", "checkbox"].includes(input.type) && !input.checked)) continue;
    const isText = ["sampler", "version", "task", "text"].includes(input.name);
    fields[input.name] = isText ? input.value : input.name === "seed" ? seedOf(input.value.trim()) : numberOf(input.value);
  }
  if (form.dataset.task !== "sample") fields.task ??= form.dataset.task;
  for (const slot of all(".slot", form)) {
    const wanted = fields.factor ? SIZE / fields.factor : SIZE;
    if (slots[slot.dataset.slot]) fields[slot.dataset.slot] = await encoded(slots[slot.dataset.slot], wanted);
  }
  if (fields.task === "inpaint") fields.mask = maskPicture();
  delete fields.factor;
  return fields;
}

/** Send one request. Seeds are written and read as text, because they have up to 63 bits. */
async function invoke({ version: other, ...fields }, signal) {
  const message = { inputs: [fields], ...(other && { version: other }) };
  const body = JSON.stringify(message).replace(/"seed":"(-?\d+)"/, '"seed":$1');
  let response, text;
  try {
    response = await fetch("invocations", { method: "POST", headers: { "Content-Type": "application/json" }, body, signal });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server did not answer; look whether it still runs, and try again.");
  }
  if (!response.ok) throw refusal(response.status, text);
  const { predictions, notice } = JSON.parse(text);
  const answer = predictions[0];
  answer.seed = text.match(/"seed": (\d+)/)[1];
  noteVersion(answer.model, notice, other);
  return answer;
}

function refusal(status, text) {
  let sentence = "The server has too many connections; try again in a moment";
  try {
    sentence = JSON.parse(text).message.replace(/^inputs\[\d+\]: /, "");
  } catch { /* refused before this project's code saw the request */ }
  const title = { 413: "Too large: ", 429: "Too much work: ", 504: "Too slow: ", 500: "Failed: " }[status] || "";
  return Object.assign(new Error(`${title}${sentence}.`), { field: status === 400 ? sentence.split(" ")[0] : null });
}

function noteVersion(model, notice, other) {
  if (notice) one("#notice").textContent = `${notice}.`;
  else if (!other && (model.version || "") !== version) {
    one("#notice").textContent = `Version ${model.version} answers now; reload the page to read what it is.`;
  }
}

async function submit(event) {
  event.preventDefault();
  const form = event.target;
  const [go, stop] = [one(".go", form), one(".stop", form)];
  const results = one(".results", form.parentElement);
  const aborting = new AbortController();
  clearErrors(form);
  go.disabled = true;
  stop.hidden = false;
  stop.onclick = () => aborting.abort();
  const began = performance.now();
  const waiting = element("p", { className: "waiting" });
  const tick = () => { waiting.textContent = `Working, ${Math.round((performance.now() - began) / 1000)} s …`; };
  const timer = setInterval(tick, 1000);
  tick();
  results.prepend(waiting);
  results.classList.add("old");
  try {
    const { version: other, ...fields } = await fieldsOf(form);
    const first = await invoke(fields, aborting.signal);
    const answers = [first];
    if (other) answers.push(await invoke({ ...fields, seed: first.seed, version: other }, aborting.signal));
    const seconds = (performance.now() - began) / 1000;
    const columns = matchMedia("(width >= 800px)").matches ? answers.length : 1;
    results.classList.toggle("beside", answers.length > 1);
    const width = results.clientWidth / columns - FRAME_OF_RESULT;
    results.replaceChildren(...answers.map((answer) => resultOf(answer, fields, seconds, width)));
    if (first.frames) results.prepend(player(all("canvas", results)));
    if (results.getBoundingClientRect().top > innerHeight / 2) results.scrollIntoView({ block: "start" });
  } catch (error) {
    if (error.name !== "AbortError") showError(form, error);
  } finally {
    clearInterval(timer);
    waiting.remove();
    results.classList.remove("old");
    go.disabled = false;
    stop.hidden = true;
  }
}

function clearErrors(form) {
  for (const message of all(".field .error", form)) message.remove();
  for (const input of all("[aria-invalid]", form)) {
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-describedby");
  }
  one(".actions + .error", form).textContent = "";
}

/** Show the sentence beside the field that it begins with, else under the button. */
function showError(form, error) {
  const input = error.field && all("[name], [data-field]", form).find((i) => [i.name, i.dataset.field].includes(error.field));
  const field = input && !input.closest("[hidden]") && input.closest(".field");
  if (!field) {
    one(".actions + .error", form).textContent = error.message;
    return;
  }
  const message = element("span", { className: "error", id: `${form.dataset.task}-error`, textContent: error.message });
  message.setAttribute("role", "alert");
  field.append(message);
  for (const details of all("details", form)) details.open ||= details.contains(field);
  const target = input.matches("input, select") ? input : one("input, canvas", field);
  target.setAttribute("aria-invalid", "true");
  target.setAttribute("aria-describedby", message.id);
  target.focus();
}

/** The largest side of a picture, so that a few are large and at least four of many stand in a row. */
function sideFor(n, width) {
  const columns = n === 1 ? 1 : n <= 5 ? Math.min(n, width < 500 ? 2 : 5) : 4;
  return Math.min(n === 1 ? 384 : n <= 4 ? 208 : n <= 20 ? 128 : 80, width / columns - 12);
}

function resultOf(answer, fields, seconds, width) {
  const n = answer.images.length;
  const called = answer.model.version ? `${name} version ${answer.model.version}` : name;
  const settings = ["sampler", "steps", "guidance", "strength", "blur", "noise"].filter((key) => key in answer);
  const said = settings.map((key) => (key === "sampler" ? answer[key] : `${key} ${answer[key]}`)).join(", ");
  const target = sideFor(n + (fields.image ? 1 : 0), width);
  const grid = element("div", { className: "grid" });
  if (fields.image) {
    const input = enlarge(element("img", { className: "pixels", src: png(fields.image), alt: "the picture that was sent" }), target);
    grid.append(element("figure", { className: "input" }, input, element("figcaption", { textContent: "input" })));
  }
  answer.images.forEach((base64, k) => grid.append(figureOf(answer, base64, k, target)));
  const keep = element("button", { type: "button", textContent: "Keep this seed" });
  keep.onclick = () => all('input[name="seed"]').forEach((input) => { input.value = answer.seed; });
  const save = element("button", { type: "button", textContent: "Download all" });
  save.onclick = () => downloadAll(answer);
  const tools = element("p", { className: "tools" }, keep, save);
  const line = `${n === 1 ? "1 picture" : `${n} pictures`}, seed ${answer.seed}, ${said}, ${seconds.toFixed(1)} s`;
  const made = element("div", { className: "result" }, element("h3", { textContent: called }), element("p", { className: "hint", textContent: line }), grid, tools);
  if (!answer.task) made.append(element("details", {}, element("summary", { textContent: "The same on the command line" }), element("pre", { textContent: commandOf(answer), tabIndex: 0 })));
  return made;
}

/** The class or the caption of a picture. */
const conditionOf = (answer, k) => answer.labels?.[k] ?? answer.texts?.[k] ?? answer.label ?? answer.text;

function figureOf(answer, base64, k, target) {
  const label = conditionOf(answer, k);
  const title = `${label != null ? `${label}, ` : ""}picture ${k + 1}, seed ${answer.seed}`;
  let picture = element("img", { className: "pixels", src: png(base64), alt: title });
  if (answer.frames) {
    picture = element("canvas", { className: "pixels", width: SIZE, height: SIZE });
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", title);
    picture.strip = element("img", { src: png(answer.frames[k]) });
  }
  const button = element("button", { type: "button", className: "picture", title }, enlarge(picture, target));
  button.onclick = () => openPicture(answer, base64, k, title);
  return element("figure", {}, button, element("figcaption", { textContent: label ?? "" }));
}

const png = (base64) => `data:image/png;base64,${base64}`;

function fileName(answer, what) {
  const guidance = answer.guidance === 1 ? "" : `guidance-${answer.guidance}`;
  const by = answer.task ? `${answer.task}-steps-${answer.steps}` : `${answer.sampler}-steps-${answer.steps}`;
  const parts = [name, answer.model.version && `version-${answer.model.version}`, what, `seed-${answer.seed}`, by, guidance];
  return `${parts.filter(Boolean).join("_").replace(/[^\w.-]+/g, "-").slice(0, 180)}.png`;
}

/** The command whose pictures are the same to the bit; the shell reads a class's name as it is. */
function commandOf(answer) {
  const quoted = (text) => (/^[\w.-]+$/.test(text) ? text : `'${String(text).replaceAll("'", "'\\''")}'`);
  const source = answer.model.version ? `--name ${quoted(name)} --version ${answer.model.version}` : `--model ${quoted(name)}`;
  const ofSampler = answer.sampler === "direct" ? [] : ["sampler", "steps", "guidance"];
  const options = ["number", "seed", "label", "text", ...ofSampler].filter((key) => answer[key] != null);
  const eta = answer.sampler === "ddim" ? ` --eta ${answer.eta}` : "";
  const given = (key) => `--${key}${String(answer[key]).startsWith("-") ? "=" : " "}${quoted(answer[key])}`;
  return `ddpm sample ${source} ${options.map(given).join(" ")}${eta} --out pictures.png`;
}

async function downloadAll(answer) {
  const bitmaps = await Promise.all(answer.images.map((base64) => bitmapOf(base64)));
  const [scale, columns] = [Math.max(1, Math.floor(64 / SIZE)), Math.ceil(Math.sqrt(bitmaps.length))];
  const [step, rows] = [SIZE * scale + 2, Math.ceil(bitmaps.length / columns)];
  const canvas = element("canvas", { width: columns * step - 2, height: rows * step - 2 });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  bitmaps.forEach((bitmap, k) => context.drawImage(bitmap, (k % columns) * step, Math.floor(k / columns) * step, SIZE * scale, SIZE * scale));
  element("a", { href: canvas.toDataURL("image/png"), download: fileName(answer, `${bitmaps.length}-pictures`) }).click();
}

function openPicture(answer, base64, k, title) {
  const dialog = one("#picture");
  one("h2", dialog).textContent = title;
  const image = enlarge(one("img", dialog), Math.min(384, innerWidth - 80));
  image.src = png(base64);
  image.alt = title;
  const label = conditionOf(answer, k);
  const link = one("a", dialog);
  link.href = png(base64);
  link.download = fileName(answer, `${label ?? "picture"}_${k + 1}`);
  one(".hint", dialog).textContent = link.download;
  for (const button of all("[data-use]", dialog)) {
    button.onclick = async () => {
      fill(button.dataset.slot || "image", { bitmap: await bitmapOf(base64), base64, title });
      dialog.close();
      location.hash = button.dataset.use;
    };
  }
  dialog.showModal();
}

function player(canvases) {
  const slider = element("input", { type: "range", min: 0, value: 0 });
  slider.setAttribute("aria-label", "Step of the reverse process");
  const button = element("button", { type: "button", className: "play", textContent: "Play" });
  let timer = null;
  const draw = () => canvases.forEach((canvas) => {
    canvas.getContext("2d").drawImage(canvas.strip, 0, slider.value * SIZE, SIZE, SIZE, 0, 0, SIZE, SIZE);
  });
  const pause = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  const next = () => {
    if (Number(slider.value) >= Number(slider.max) || !slider.isConnected) return pause();
    slider.value = Number(slider.value) + 1;
    draw();
  };
  button.onclick = () => {
    if (timer) return pause();
    if (slider.value === slider.max) slider.value = 0;
    button.textContent = "Pause";
    timer = setInterval(next, FRAME_MILLISECONDS);
  };
  slider.oninput = () => { pause(); draw(); };
  Promise.all(canvases.map(({ strip }) => strip.decode())).then(() => {
    slider.max = canvases[0].strip.naturalHeight / SIZE - 1;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    slider.value = still ? slider.max : 0;
    draw();
    if (!still) button.click();
  });
  return element("p", { className: "player result" }, button, slider);
}
