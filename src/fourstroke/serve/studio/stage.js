// The stage: the picture that is being drawn, the one looked at, its settings, and the history.

import { at, make } from "/dom.js";
import { decodeBase64, readSettings } from "/settings.js";

const HISTORY = 60;
const history = [];
let shown = null; // {url, settings, blob}
let many = false; // whether the request that is being drawn has tiles, looked at or not

export const current = () => shown;

/** Make room for the pictures of a new request. */
export function expect(count) {
  many = count > 1;
  at("hint").hidden = true;
  at("picture").hidden = count > 1 || !at("picture").src;
  at("tiles").hidden = count === 1;
  at("tiles").replaceChildren(...(count > 1 ? Array.from({ length: count }, tile) : []));
  at("tiles").classList.toggle("four", count > 1 && count <= 4);
}

function tile(_, index) {
  const button = make("button", { type: "button", disabled: true, "aria-label": `Picture ${index + 1}` }, make("img", { alt: "" }));
  return make("li", {}, button);
}

const single = () => !many;
const target = (index) => (single() ? at("picture") : at("tiles").children[index]?.querySelector("img"));

/** Show a partial image. */
export function preview(event) {
  const image = target(event.image_index);
  if (!image) return;
  image.src = `data:image/${event.output_format};base64,${event.b64_json}`;
  image.hidden = false;
  if (single()) image.alt = `Preview after step ${event.step} of ${event.steps}`;
  image.classList.add("draft");
  dress(image, event.size, event.background);
}

/** Put a finished picture on the stage and into the history. */
export function keep(event) {
  const bytes = decodeBase64(event.b64_json);
  const settings = readSettings(bytes.buffer) ?? { prompt: event.revised_prompt, seed: event.seed };
  const entry = add(new Blob([bytes], { type: "image/png" }), settings);
  if (single()) {
    show(entry);
    return;
  }
  const image = target(event.image_index);
  image.src = entry.url;
  image.classList.remove("draft");
  dress(image, `${settings.width}x${settings.height}`, settings.background);
  const button = image.parentElement;
  button.disabled = false;
  button.setAttribute("aria-label", `Show picture ${event.image_index + 1}, seed ${settings.seed}`);
  button.addEventListener("click", () => show(entry));
  describe(entry);
}

/** Into the history, newest first. */
export function add(blob, settings) {
  const entry = { blob, settings, url: URL.createObjectURL(blob) };
  history.unshift(entry);
  for (const old of history.splice(HISTORY)) URL.revokeObjectURL(old.url);
  list();
  return entry;
}

/** Look at a picture of the history. */
export function show(entry) {
  const image = at("picture");
  const { settings } = entry;
  at("tiles").hidden = at("hint").hidden = true;
  image.src = entry.url;
  image.alt = settings.prompt;
  image.hidden = false;
  image.classList.remove("draft");
  dress(image, `${settings.width}x${settings.height}`, settings.background);
  describe(entry);
}

/** The next (1) or previous (-1) picture of the history. */
export function leaf(direction) {
  const next = history[history.indexOf(shown) + direction];
  if (next) show(next);
}

/** After a cancelled or failed request: what was there before. */
export function settle() {
  if (shown) show(shown);
  else {
    at("picture").hidden = at("tiles").hidden = true;
    at("hint").hidden = false;
  }
}

/** Forget all pictures but the one on the stage. */
export function clear() {
  for (const entry of history.splice(0)) if (entry !== shown) URL.revokeObjectURL(entry.url);
  list();
}

function describe(entry) {
  shown = entry;
  const { settings, url } = entry;
  at("download").href = url;
  at("download").download = `${settings.prompt.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40)}-${settings.seed}.png`;
  at("tools").hidden = at("settings").hidden = false;
  const rows = {
    Prompt: settings.prompt, Asked: settings.request, Seed: settings.seed, Size: settings.width && `${settings.width} × ${settings.height}`,
    Steps: settings.num_inference_steps, Guidance: settings.guidance_scale === 1 ? "off" : settings.guidance_scale,
    "Leave out": settings.negative_prompt, Background: settings.background === "transparent" ? "transparent" : "",
    Adapters: settings.lora?.map(({ name, strength }) => `${name} ${strength}`).join(", "),
    Edits: settings.inputs && `${settings.inputs.length} picture${settings.inputs.length > 1 ? "s" : ""}${settings.mask ? " under a mask" : ""}`,
    Model: [settings.model, settings.version].filter(Boolean).join(" "),
  };
  at("settings").replaceChildren(...Object.entries(rows).filter(([, value]) => value !== undefined && value !== "")
    .flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
  list();
}

function list() {
  at("history-title").hidden = !history.length;
  at("history").replaceChildren(...history.map((entry) => {
    const image = make("img", { src: entry.url, alt: "" });
    image.classList.toggle("clear", entry.settings.background === "transparent");
    const label = `Show: ${entry.settings.prompt}, seed ${entry.settings.seed}`;
    const button = make("button", { type: "button", "aria-label": label, "aria-current": String(entry === shown) }, image);
    button.addEventListener("click", () => show(entry));
    return make("li", {}, button);
  }));
}

function dress(image, size, background) {
  image.classList.toggle("small", Math.max(...size.split("x").map(Number)) <= 256);
  image.classList.toggle("clear", background === "transparent");
}
