// The studio: one page over the server's own API.

import { ask, post, readEvents } from "/api.js";
import { at, make, say } from "/dom.js";
import * as loras from "/loras.js";
import { exportMask, paintMask } from "/mask.js";
import { readSettings } from "/settings.js";
import * as stage from "/stage.js";

const EXAMPLES = [
  "two glossy 3D penguins on a mint background", 'a yellow sign that says "open" above a cup of coffee',
  "a frog to the left of a red circle", "a bicycle below a train on the left and a pineapple on the right",
];
let model = null; // what the server draws with
let drawing = null; // AbortController of the running request
let inputs = []; // {file, url, mask}

async function start() {
  try {
    const { data } = await (await ask("/v1/models")).json();
    model = { id: data[0].id, ...data[0].fourstroke };
  } catch (error) {
    at("model").textContent = "no connection";
    say(`The server cannot be reached: ${error.message}`, true);
    return;
  }
  at("model").textContent = `${model.id} · ${model.width} × ${model.height}`;
  for (const [width, height] of sizes(model)) at("size").add(new Option(`${width} × ${height}`, `${width}x${height}`));
  at("size").add(new Option("as the picture to edit", "auto"));
  at("count").max = model.max_n;
  at("steps").max = model.fixed_steps ? Math.max(8, model.num_inference_steps) : Math.min(100, model.max_steps);
  at("enhance").disabled = !model.enhances;
  if (!model.enhances) at("enhance-note").textContent = `${model.id} has no prompt enhancer`;
  at("steps").value = model.num_inference_steps;
  at("guidance").value = model.guidance_scale;
  loras.offer(model.loras);
  showNumbers();
}

/** The model's own size first, then other shapes of about its area. */
function sizes({ width, height, max_side: most, multiple: unit }) {
  const fitted = (value) => Math.min(most - (most % unit), Math.max(unit, Math.round(value / unit) * unit));
  const found = [[width, height]];
  for (const ratio of [1, 4 / 3, 3 / 4, 3 / 2, 2 / 3, 16 / 9, 9 / 16]) {
    const side = Math.sqrt(width * height * ratio);
    found.push([fitted(side), fitted(side / ratio)]);
  }
  return found.filter(([w, h], i) => found.findIndex(([a, b]) => a === w && b === h) === i);
}

function chooseSize(size) {
  const [width, height] = size.split("x");
  if (![...at("size").options].some((option) => option.value === size)) at("size").add(new Option(`${width} × ${height}`, size));
  at("size").value = size;
}

function showNumbers() {
  at("steps-shown").value = at("steps").value;
  at("guidance-shown").value = at("guidance").value === "1" ? "off" : at("guidance").value;
}

/** The words that will be drawn. */
const words = () => (at("rewrite-box").hidden ? at("prompt").value : at("rewrite").value);

async function enhance() {
  if (!words().trim()) return lacking();
  at("enhance").disabled = true;
  say("Writing the prompt out …");
  try {
    const found = await (await post("/v1/prompts/enhance", { prompt: at("prompt").value, seed: Number(at("seed").value) || 0 })).json();
    at("rewrite").value = found.prompt;
    at("rewrite-note").textContent = found.warning ?? found.reasoning;
    at("rewrite-note").hidden = !at("rewrite-note").textContent;
    at("rewrite-box").hidden = false;
    if (found.size !== "auto" && !inputs.length) chooseSize(found.size);
    say(found.warning ? "Your own words stay." : "Look at the rewritten prompt, change it, draw it.");
    at("rewrite").focus();
  } catch (error) {
    say(error.message, true);
  } finally {
    at("enhance").disabled = false;
  }
}

function ownWords() {
  at("rewrite-box").hidden = true;
  at("prompt").focus();
}

function lacking() {
  say("Say what to draw first.", true);
  at("prompt").focus();
}

/** The fields of a request as they stand on the page. */
function fields() {
  const found = {
    prompt: words(), size: at("size").value, n: Number(at("count").value) || 1, stream: true,
    background: at("transparent").checked ? "transparent" : "opaque", guidance_scale: Number(at("guidance").value),
  };
  const steps = Number(at("steps").value);
  if (steps !== model.num_inference_steps) found.num_inference_steps = steps;
  if (at("negative").value.trim()) found.negative_prompt = at("negative").value;
  if (model.loras.length) found.lora = loras.chosen();
  if (at("seed").value !== "") found.seed = Number(at("seed").value);
  found.partial_images = Math.min(steps - 1, model.max_previews, 8);
  return found;
}

async function request(wanted, signal) {
  if (!inputs.length) return post("/v1/images/generations", wanted, signal);
  const form = new FormData();
  for (const [name, value] of Object.entries(wanted)) form.append(name, name === "lora" ? JSON.stringify(value) : value);
  for (const { file } of inputs) form.append("image[]", file, file.name || "picture.png");
  if (inputs[0].mask) {
    form.set("size", "auto");
    form.append("mask", await exportMask(inputs[0]), "mask.png");
  }
  return ask("/v1/images/edits", { method: "POST", body: form, signal });
}

async function draw(wanted = fields()) {
  if (drawing || !model) return;
  if (!wanted.prompt.trim()) {
    lacking();
    return;
  }
  drawing = new AbortController();
  const began = performance.now();
  const seconds = () => ((performance.now() - began) / 1000).toFixed(1);
  busy(true);
  say("Waiting for the first step …");
  let done = 0;
  try {
    let first = "";
    for await (const [name, event] of readEvents(await request(wanted, drawing.signal))) {
      if (!first) {
        stage.expect(wanted.n);
        first = seconds();
        at("figure").dataset.first = first;
      }
      if (name === "error") throw new Error(event.error.message);
      if (name.endsWith(".partial_image")) {
        stage.preview(event);
        say(`Step ${event.step} of ${event.steps}`);
        at("progress").value = Math.max(at("progress").value, event.step / event.steps);
        continue;
      }
      done += 1;
      stage.keep(event);
      at("progress").value = done / wanted.n;
      say(wanted.n > 1 ? `${done} of ${wanted.n} drawn in ${seconds()} s` : `Drawn in ${seconds()} s, first look after ${first} s, seed ${event.seed}`);
    }
    if (done < wanted.n) throw new Error("the connection ended before the picture was finished");
  } catch (error) {
    if (error.name === "AbortError") say("Cancelled.");
    else say(error.message, true);
    if (!done) stage.settle();
  } finally {
    drawing = null;
    busy(false);
  }
}

function busy(on) {
  at("draw").disabled = on;
  at("cancel").hidden = !on;
  at("progress").hidden = !on;
  at("progress").value = 0;
  at("figure").setAttribute("aria-busy", String(on));
}

/** Set a slider; one that is too short for a value, or whose steps miss it, gives way. */
function slide(id, value) {
  const slider = at(id);
  slider.min = Math.min(slider.min, value);
  slider.max = Math.max(slider.max, value);
  if ((value - slider.min) % slider.step) slider.step = "any";
  slider.value = value;
}

/** Set every control as the settings say. */
function restore(settings) {
  at("prompt").value = settings.prompt;
  at("rewrite-box").hidden = true;
  at("seed").value = settings.seed ?? "";
  at("transparent").checked = settings.background === "transparent";
  at("negative").value = settings.negative_prompt ?? "";
  at("count").value = 1;
  if (settings.width) chooseSize(`${settings.width}x${settings.height}`);
  slide("steps", settings.num_inference_steps ?? model.num_inference_steps);
  slide("guidance", settings.guidance_scale ?? model.guidance_scale);
  showNumbers();
  const lacking = loras.restore(settings.lora);
  const other = settings.version && settings.version !== model.version;
  if (lacking.length) say(`Settings restored; it was drawn with adapters that are not here (${lacking.join(", ")}).`);
  else say(other ? `Settings restored; it was drawn by another model (${settings.model} ${settings.version}).` : "Settings restored.");
}

function setInputs(found) {
  const had = inputs.length;
  inputs = found.slice(0, model?.max_input_images ?? 10);
  at("inputs").replaceChildren(...inputs.map(thumbnail));
  if (inputs.length) at("size").value = "auto";
  else if (had && at("size").value === "auto") at("size").selectedIndex = 0;
  at("draw").textContent = inputs.length ? "Edit" : "Draw";
}

function thumbnail(input, index) {
  const name = input.file.name || "picture to edit";
  const remove = make("button", { type: "button", textContent: "×", className: "remove", "aria-label": `Remove ${name}` });
  remove.addEventListener("click", () => setInputs(inputs.filter((other) => other !== input)));
  const item = make("li", {}, make("img", { src: input.url, alt: name }), remove);
  if (index > 0) return item; // a mask belongs to the first picture
  if (input.mask) {
    const shape = make("canvas", { width: input.mask.width, height: input.mask.height, className: "over" });
    shape.getContext("2d").drawImage(input.mask, 0, 0);
    item.append(shape);
  }
  const text = input.mask ? "Change mask" : "Mask";
  const mask = make("button", { type: "button", id: "mask", className: "small", textContent: text, "aria-label": `${text}: choose the part of ${name} to draw anew` });
  mask.addEventListener("click", () => paintMask(input, () => setInputs(inputs)));
  item.append(mask);
  return item;
}

function addInputs(files) {
  const pictures = [...files].filter((file) => file.type.startsWith("image/"));
  setInputs([...inputs, ...pictures.map((file) => ({ file, url: URL.createObjectURL(file), mask: null }))]);
}

/** A PNG of ours brings its settings back; anything else becomes an image to edit. */
async function dropped(files, onTray) {
  for (const file of files) {
    const settings = onTray ? null : readSettings(await file.arrayBuffer());
    if (settings) {
      stage.show(stage.add(file, settings));
      restore(settings);
    } else addInputs([file]);
  }
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); draw(); });
at("cancel").addEventListener("click", () => drawing?.abort());
at("enhance").addEventListener("click", enhance);
at("own").addEventListener("click", ownWords);
at("dice").addEventListener("click", () => { at("seed").value = ""; });
at("file").addEventListener("change", (event) => { addInputs(event.target.files); event.target.value = ""; });
at("vary").addEventListener("click", () => {
  restore(stage.current().settings);
  at("seed").value = "";
  draw({ ...fields(), n: Math.min(4, model.max_n) });
});
at("reuse").addEventListener("click", () => restore(stage.current().settings));
at("edit").addEventListener("click", () => {
  addInputs([new File([stage.current().blob], "picture.png", { type: "image/png" })]);
  at("prompt").focus();
});
at("clear").addEventListener("click", stage.clear);
at("examples").append(...EXAMPLES.map((text) => {
  const button = make("button", { type: "button", className: "small", textContent: text });
  button.addEventListener("click", () => { at("rewrite-box").hidden = true; at("prompt").value = text; draw(); });
  return make("li", {}, button);
}));
for (const id of ["steps", "guidance"]) at(id).addEventListener("input", showNumbers);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); draw(); }
  if (event.key === "Escape" && drawing) drawing.abort();
  if (event.altKey && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
    event.preventDefault();
    stage.leaf(event.key === "ArrowRight" ? 1 : -1);
  }
});
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dragging"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  if (event.dataTransfer.files.length) dropped([...event.dataTransfer.files], Boolean(event.target.closest?.("#tray")));
});
start();
