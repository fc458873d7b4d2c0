// The box of the server's adapters: a slider for each, with its strength; 0 is off.

import { at, make } from "/dom.js";

const sliders = new Map(); // name -> input

/** Offer these adapters [{name, strength}]. */
export function offer(loras) {
  at("loras").hidden = !loras.length;
  for (const { name, strength } of loras) {
    const id = `lora-${sliders.size}`;
    const shown = make("output", { htmlFor: id });
    const slider = make("input", { type: "range", id, min: "-1", max: "2", step: "0.05" });
    slider.addEventListener("input", () => { shown.value = slider.value === "0" ? "off" : slider.value; });
    sliders.set(name, slider);
    set(slider, strength);
    at("loras").append(make("label", { className: "field", htmlFor: id }, make("span", {}, `${name} `, shown), slider));
  }
}

/** Those in use [{name, strength}], as a request names them. */
export function chosen() {
  return [...sliders].map(([name, slider]) => ({ name, strength: Number(slider.value) })).filter(({ strength }) => strength);
}

/** Set every slider as a picture's settings say; returns the names that this server does not have. */
export function restore(loras = []) {
  const wanted = new Map(loras.map(({ name, strength }) => [name, strength]));
  for (const [name, slider] of sliders) set(slider, wanted.get(name) ?? 0);
  return [...wanted.keys()].filter((name) => !sliders.has(name));
}

/** A slider that is too short for a value, or whose steps miss it, gives way. */
function set(slider, value) {
  slider.min = Math.min(slider.min, value);
  slider.max = Math.max(slider.max, value);
  if (Math.abs(value / 0.05 - Math.round(value / 0.05)) > 1e-6) slider.step = "any";
  slider.value = value;
  slider.dispatchEvent(new Event("input"));
}
