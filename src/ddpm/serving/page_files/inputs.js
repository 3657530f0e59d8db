"use strict";
// The pictures that a task starts from, the brush for the mask, and the start of the page; page.js comes before.

async function bitmapOf(base64) {
  const image = element("img", { src: png(base64) });
  await image.decode();
  return createImageBitmap(image);
}

/** The picture as a file of wanted x wanted pixels: unchanged if it has them, else its middle square, scaled. */
async function encoded({ bitmap, base64 }, wanted) {
  if (base64 && bitmap.width === wanted && bitmap.height === wanted) return base64;
  const side = Math.min(bitmap.width, bitmap.height);
  const [left, top] = [Math.floor((bitmap.width - side) / 2), Math.floor((bitmap.height - side) / 2)];
  const options = { resizeWidth: wanted, resizeHeight: wanted, resizeQuality: "high" };
  const canvas = element("canvas", { width: wanted, height: wanted });
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // under transparent parts
  context.fillRect(0, 0, wanted, wanted);
  context.drawImage(await createImageBitmap(bitmap, left, top, side, side, options), 0, 0);
  return canvas.toDataURL("image/png").split(",")[1];
}

function fill(key, picture) {
  slots[key] = picture;
  for (const slot of all(`.slot[data-slot="${key}"]`)) {
    const { bitmap, title } = picture;
    const isScaled = bitmap.width !== SIZE || bitmap.height !== SIZE;
    const size = `${bitmap.width}×${bitmap.height} pixels`;
    one(".hint", slot).textContent = `${title}, ${size}${isScaled ? "; its middle square is scaled to what the model reads" : ""}`;
    encoded(picture, SIZE).then((base64) => {
      const preview = one("img", slot);
      preview.src = png(base64);
      preview.alt = title;
      preview.hidden = false;
    });
  }
  if (key === "image" && one("#brush")) drawMask();
}

async function choose(key, file, form) {
  clearErrors(form);
  try {
    const bitmap = await createImageBitmap(file);
    const bytes = file.size <= SMALL_FILE ? new Uint8Array(await file.arrayBuffer()) : null;
    const base64 = bytes && btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
    fill(key, { bitmap, base64, title: file.name });
  } catch {
    showError(form, Object.assign(new Error(`${file.name} cannot be read as a picture; choose a PNG or JPEG file.`), { field: key }));
  }
}

function buildSlot(slot, k) {
  const { slot: key, title } = slot.dataset;
  const form = slot.closest("form");
  const file = element("input", { type: "file", accept: "image/*", id: `file-${k}` });
  file.onchange = () => file.files.length && choose(key, file.files[0], form);
  const draw = element("button", { type: "button", textContent: "Generate one", hidden: !one("#generate") });
  draw.onclick = async () => {
    clearErrors(form);
    try {
      const { label, text, guidance } = await fieldsOf(form);
      const given = { ...(label !== undefined && { label }), ...(text !== undefined && { text }) };
      const answer = await invoke({ ...given, ...(Object.keys(given).length && guidance && { guidance }), ...needed() });
      fill(key, { bitmap: await bitmapOf(answer.images[0]), base64: answer.images[0], title: "generated picture" });
    } catch (error) {
      showError(form, error);
    }
  };
  const preview = enlarge(element("img", { className: "pixels", alt: "", hidden: true }), 96);
  const label = element("label", { htmlFor: file.id, textContent: title });
  slot.append(preview, element("div", {}, label, file, draw, element("p", { className: "hint", textContent: "Nothing is chosen yet." })));
}

/** What a model without a recipe must be told: the sampler and steps that the first form begins with. */
function needed() {
  const { sampler, steps } = one("#generate form").elements;
  return sampler.options[0].value && steps.defaultValue ? { sampler: sampler.options[0].value, steps: Number(steps.defaultValue) } : {};
}

async function drawMask() {
  const canvas = one("#brush");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#888";
  context.fillRect(0, 0, SIZE, SIZE);
  if (slots.image) {
    const image = element("img", { src: png(await encoded(slots.image, SIZE)) });
    await image.decode();
    context.drawImage(image, 0, 0);
  }
  context.fillStyle = "rgb(255 80 60 / 0.65)";
  mask.forEach((painted, k) => painted && context.fillRect(k % SIZE, Math.floor(k / SIZE), 1, 1));
  if (document.activeElement === canvas) {
    context.fillStyle = "rgb(40 140 255 / 0.8)";
    context.fillRect(cursor.x, cursor.y, 1, 1);
  }
  const painted = mask.reduce((sum, value) => sum + value, 0);
  one("#masked").textContent = `${painted} of ${SIZE * SIZE} pixels will be painted anew.`;
}

function brush(x, y, value) {
  const radius = Number(one("#brush-size").value) / 2;
  for (let row = 0; row < SIZE; row++) {
    for (let column = 0; column < SIZE; column++) {
      const isNear = (column - x) ** 2 + (row - y) ** 2 <= radius ** 2 || (column === x && row === y);
      if (isNear) mask[row * SIZE + column] = value;
    }
  }
  drawMask();
}

function maskPicture() {
  const canvas = element("canvas", { width: SIZE, height: SIZE });
  const pixels = new ImageData(SIZE, SIZE);
  mask.forEach((painted, k) => pixels.data.set([255 * painted, 255 * painted, 255 * painted, 255], 4 * k));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas.toDataURL("image/png").split(",")[1];
}

const REGIONS = {
  top: (x, y) => y < 0.5,
  bottom: (x, y) => y >= 0.5,
  left: (x) => x < 0.5,
  right: (x) => x >= 0.5,
  centre: (x, y) => Math.abs(x - 0.49) < 0.26 && Math.abs(y - 0.49) < 0.26,
  none: () => false,
};

function startBrush() {
  const canvas = enlarge(one("#brush"), 272);
  let value = 1;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top].map((place) => Math.floor((place / box.width) * SIZE));
  };
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    value = event.shiftKey ? 0 : 1;
    [cursor.x, cursor.y] = at(event);
    brush(...at(event), value);
  };
  canvas.onpointermove = (event) => event.buttons && brush(...at(event), value);
  canvas.onkeydown = (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    if (!move) return brush(cursor.x, cursor.y, event.shiftKey ? 0 : 1);
    cursor.x = Math.min(SIZE - 1, Math.max(0, cursor.x + move[0]));
    cursor.y = Math.min(SIZE - 1, Math.max(0, cursor.y + move[1]));
    drawMask();
  };
  canvas.onfocus = canvas.onblur = drawMask;
  for (const button of all("[data-mask]")) {
    button.onclick = () => {
      mask.forEach((_, k) => { mask[k] = REGIONS[button.dataset.mask]((k % SIZE) / SIZE, Math.floor(k / SIZE) / SIZE) ? 1 : 0; });
      drawMask();
    };
  }
  one('[data-mask="centre"]').click();
}

for (const form of all("form")) {
  form.onsubmit = submit;
  form.onchange = () => showUsedFields(form);
  showUsedFields(form);
}
all(".slot").forEach(buildSlot);
if (one("#brush")) startBrush(); // a model has only the tasks that it can do
if (one("#e-strength")) {
  one("#e-strength").oninput = (event) => { one('output[for="e-strength"]').value = event.target.value; };
}
one("[data-close]").onclick = () => one("#picture").close();
one("#curl").textContent = `curl -H 'Content-Type: application/json' ${new URL("invocations", location.href)} \\\n  -d '{"inputs": [${request}]}'`;
addEventListener("hashchange", show);
show();
document.addEventListener("visibilitychange", async () => {
  if (document.hidden) return;
  const response = await fetch("model").catch(() => null);
  if (response?.ok) {
    const { model, notice } = await response.json();
    noteVersion(model, notice);
  }
});
if (auto && one("#generate")?.hidden === false) one("#generate form").requestSubmit();
