// The studio: one page over the server's own API.

import { decodeBase64, readEvents, readRecipe } from "/recipe.js";

const at = (id) => document.getElementById(id);
const HISTORY = 60;
let model = null; // what the server draws with
let drawing = null; // AbortController of the running request
let inputs = []; // {file, url}
let shown = null; // the picture on the stage: {url, recipe, blob, format}
const history = [];

async function ask(path, options = {}) {
  const key = sessionStorage.getItem("fourstroke-key");
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    await login();
    return ask(path, options);
  }
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw new Error(body?.error?.message ?? `the server answered ${response.status}`);
  }
  return response;
}

function login() {
  at("login").showModal();
  return new Promise((resolve) => at("login").addEventListener("close", () => {
    sessionStorage.setItem("fourstroke-key", at("key").value);
    resolve();
  }, { once: true }));
}

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
  for (const [width, height] of sizes(model)) {
    at("size").add(new Option(`${width} × ${height}`, `${width}x${height}`));
  }
  at("size").add(new Option("as the picture to edit", "auto"));
  at("count").max = model.max_n;
  at("steps").max = model.fixed_steps ? Math.max(8, model.num_inference_steps) : Math.min(100, model.max_steps);
  resetNumbers();
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

function resetNumbers() {
  at("steps").value = model.num_inference_steps;
  at("guidance").value = model.guidance_scale;
  showNumbers();
}

function showNumbers() {
  at("steps-shown").value = at("steps").value;
  at("guidance-shown").value = at("guidance").value === "1" ? "off" : at("guidance").value;
}

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

/** The fields of a request as they stand on the page. */
function fields() {
  const found = {
    prompt: at("prompt").value, size: at("size").value, n: Number(at("count").value) || 1, stream: true,
    background: at("transparent").checked ? "transparent" : "opaque", guidance_scale: Number(at("guidance").value),
  };
  const steps = Number(at("steps").value);
  if (steps !== model.num_inference_steps) found.num_inference_steps = steps;
  if (at("negative").value.trim()) found.negative_prompt = at("negative").value;
  if (at("seed").value !== "") found.seed = Number(at("seed").value);
  found.partial_images = Math.min(steps - 1, model.max_previews, 8);
  return found;
}

function request(wanted) {
  if (!inputs.length) {
    const headers = { "Content-Type": "application/json" };
    return ask("/v1/images/generations", { method: "POST", headers, body: JSON.stringify(wanted), signal: drawing.signal });
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(wanted)) form.append(name, value);
  for (const { file } of inputs) form.append("image[]", file, file.name || "picture.png");
  return ask("/v1/images/edits", { method: "POST", body: form, signal: drawing.signal });
}

async function draw(wanted = fields()) {
  if (drawing || !model) return;
  if (!wanted.prompt.trim()) {
    say("Say what to draw first.", true);
    at("prompt").focus();
    return;
  }
  drawing = new AbortController();
  const began = performance.now();
  busy(true);
  say("Waiting for the first step …");
  try {
    let done = 0;
    for await (const [name, event] of readEvents(await request(wanted))) {
      if (name === "error") throw new Error(event.error.message);
      if (name.endsWith(".partial_image")) {
        if (event.image_index === done) preview(event);
        continue;
      }
      done += 1;
      keep(event);
      const seconds = ((performance.now() - began) / 1000).toFixed(1);
      say(`${done} of ${wanted.n} drawn in ${seconds} s, seed ${event.seed}`);
      at("progress").value = done / wanted.n;
    }
    if (done < wanted.n) throw new Error("the connection ended before the picture was finished");
  } catch (error) {
    if (error.name === "AbortError") say("Cancelled.");
    else say(error.message, true);
    if (shown) show(shown);
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

function preview(event) {
  const image = at("picture");
  image.src = `data:image/${event.output_format};base64,${event.b64_json}`;
  image.alt = `Preview after step ${event.step} of ${event.steps}`;
  image.hidden = false;
  at("hint").hidden = true;
  image.classList.add("draft");
  dress(image, event.size, event.background);
  at("progress").value = event.step / event.steps;
  say(`Step ${event.step} of ${event.steps}`);
}

function dress(image, size, background) {
  image.classList.toggle("small", Math.max(...size.split("x").map(Number)) <= 256);
  image.classList.toggle("clear", background === "transparent");
}

/** Put a finished picture on the stage and into the history. */
function keep(event) {
  const bytes = decodeBase64(event.b64_json);
  add(new Blob([bytes], { type: "image/png" }), readRecipe(bytes.buffer) ?? { prompt: event.revised_prompt, seed: event.seed });
}

function add(blob, recipe) {
  const entry = { blob, recipe, url: URL.createObjectURL(blob) };
  history.unshift(entry);
  for (const old of history.splice(HISTORY)) URL.revokeObjectURL(old.url);
  show(entry);
}

function show(entry) {
  shown = entry;
  const { recipe, url } = entry;
  const image = at("picture");
  image.src = url;
  image.alt = recipe.prompt;
  image.hidden = false;
  image.classList.remove("draft");
  at("hint").hidden = true;
  dress(image, `${recipe.width}x${recipe.height}`, recipe.background);
  at("download").href = url;
  at("download").download = `${recipe.prompt.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40)}-${recipe.seed}.png`;
  at("tools").hidden = at("recipe").hidden = false;
  const rows = {
    Prompt: recipe.prompt, Seed: recipe.seed, Size: `${recipe.width} × ${recipe.height}`, Steps: recipe.num_inference_steps,
    Guidance: recipe.guidance_scale === 1 ? "off" : recipe.guidance_scale, "Leave out": recipe.negative_prompt,
    Model: [recipe.model, recipe.version].filter(Boolean).join(" "), Edits: recipe.inputs?.length,
  };
  at("recipe").replaceChildren(...Object.entries(rows).filter(([, v]) => v !== undefined && v !== "").flatMap(([name, value]) => {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, text.textContent] = [name, value];
    return [term, text];
  }));
  at("history-title").hidden = !history.length;
  at("history").replaceChildren(...history.map((item) => {
    const [li, button, img] = ["li", "button", "img"].map((tag) => document.createElement(tag));
    img.src = item.url;
    img.alt = "";
    button.type = "button";
    button.setAttribute("aria-label", `Show: ${item.recipe.prompt}, seed ${item.recipe.seed}`);
    button.setAttribute("aria-current", String(item === shown));
    button.addEventListener("click", () => show(item));
    button.append(img);
    li.append(button);
    return li;
  }));
}

/** Set every control as the recipe says. */
function restore(recipe) {
  at("prompt").value = recipe.prompt;
  at("seed").value = recipe.seed ?? "";
  at("transparent").checked = recipe.background === "transparent";
  at("negative").value = recipe.negative_prompt ?? "";
  at("count").value = 1;
  const size = `${recipe.width}x${recipe.height}`;
  if (recipe.width && ![...at("size").options].some((o) => o.value === size)) {
    at("size").add(new Option(`${recipe.width} × ${recipe.height}`, size));
  }
  if (recipe.width) at("size").value = size;
  at("steps").value = recipe.num_inference_steps ?? model.num_inference_steps;
  at("guidance").value = recipe.guidance_scale ?? model.guidance_scale;
  showNumbers();
  const other = recipe.version && recipe.version !== model.version;
  say(other ? `Recipe restored; it was drawn by another model (${recipe.model} ${recipe.version}).` : "Recipe restored.");
}

function setInputs(found) {
  inputs = found.slice(0, model?.max_input_images ?? 10);
  at("inputs").replaceChildren(...inputs.map((input) => {
    const [li, img, button] = ["li", "img", "button"].map((tag) => document.createElement(tag));
    img.src = input.url;
    img.alt = input.file.name || "picture to edit";
    button.type = "button";
    button.textContent = "×";
    button.setAttribute("aria-label", `Remove ${img.alt}`);
    button.addEventListener("click", () => setInputs(inputs.filter((other) => other !== input)));
    li.append(img, button);
    return li;
  }));
  at("size").value = inputs.length ? "auto" : at("size").value === "auto" ? at("size").options[0].value : at("size").value;
  at("draw").textContent = inputs.length ? "Edit" : "Draw";
}

function addInputs(files) {
  const pictures = [...files].filter((file) => file.type.startsWith("image/"));
  setInputs([...inputs, ...pictures.map((file) => ({ file, url: URL.createObjectURL(file) }))]);
}

/** A PNG of ours brings its recipe back; anything else becomes an image to edit. */
async function dropped(files, onTray) {
  for (const file of files) {
    const recipe = onTray ? null : readRecipe(await file.arrayBuffer());
    if (!recipe) {
      addInputs([file]);
      continue;
    }
    add(file, recipe);
    restore(recipe);
  }
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); draw(); });
at("cancel").addEventListener("click", () => drawing?.abort());
at("dice").addEventListener("click", () => { at("seed").value = ""; });
at("file").addEventListener("change", (event) => { addInputs(event.target.files); event.target.value = ""; });
at("vary").addEventListener("click", () => {
  restore(shown.recipe);
  at("seed").value = "";
  draw({ ...fields(), n: Math.min(4, model.max_n) });
});
at("reuse").addEventListener("click", () => restore(shown.recipe));
at("edit").addEventListener("click", () => { addInputs([new File([shown.blob], "picture.png", { type: "image/png" })]); at("prompt").focus(); });
at("clear").addEventListener("click", () => { history.length = 0; at("history").replaceChildren(); at("history-title").hidden = true; });
for (const id of ["steps", "guidance"]) at(id).addEventListener("input", showNumbers);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); draw(); }
  if (event.key === "Escape" && drawing) drawing.abort();
});
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dragging"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  if (event.dataTransfer.files.length) dropped([...event.dataTransfer.files], Boolean(event.target.closest?.("#tray")));
});
start();
