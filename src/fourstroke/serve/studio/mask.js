// Painting a mask over the first image to edit: what is painted will be drawn anew.

import { at } from "/dom.js";

const canvas = at("mask-canvas");
const paint = canvas.getContext("2d");
let open = null; // {input, done, cursor: [x, y], from: [x, y] | null, before: ImageData | null}

const tool = () => document.querySelector("input[name=tool]:checked").value;
const radius = () => (Number(at("brush").value) / 200) * Math.max(canvas.width, canvas.height);

/** Open the dialog for an input; `done` is called when the mask may have changed. */
export async function paintMask(input, done) {
  const under = at("mask-under");
  under.src = input.url;
  await under.decode();
  [canvas.width, canvas.height] = [under.naturalWidth, under.naturalHeight];
  if (input.mask) paint.drawImage(input.mask, 0, 0);
  open = { input, done, cursor: [canvas.width / 2, canvas.height / 2], from: null, before: null };
  tell();
  at("masking").showModal();
  const room = Math.min(innerWidth - 80, 640, (innerHeight - 330) * (canvas.width / canvas.height));
  canvas.style.width = under.style.width = `${Math.max(160, Math.round(room))}px`;
  canvas.focus();
}

/** The mask as the API wants it: transparent where the picture is to be drawn anew. */
export function exportMask(input) {
  const sheet = new OffscreenCanvas(input.mask.width, input.mask.height);
  const context = sheet.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, sheet.width, sheet.height);
  context.globalCompositeOperation = "destination-out";
  for (let i = 0; i < 4; i += 1) context.drawImage(input.mask, 0, 0); // soft edges become clear
  return sheet.convertToBlob({ type: "image/png" });
}

function stroke([x0, y0], [x1, y1], r) {
  paint.globalCompositeOperation = tool() === "erase" ? "destination-out" : "source-over";
  [paint.fillStyle, paint.strokeStyle, paint.lineCap, paint.lineWidth] = ["#e8442a", "#e8442a", "round", 2 * r];
  paint.beginPath();
  paint.moveTo(x0, y0);
  paint.lineTo(x1 + 0.01, y1);
  paint.stroke();
}

function circle([x0, y0], [x1, y1]) {
  paint.globalCompositeOperation = "source-over";
  paint.fillStyle = "#e8442a";
  paint.beginPath();
  paint.arc(x0, y0, Math.hypot(x1 - x0, y1 - y0), 0, 2 * Math.PI);
  paint.fill();
}

function share() {
  const { data } = paint.getImageData(0, 0, canvas.width, canvas.height);
  let painted = 0;
  for (let i = 3; i < data.length; i += 4) painted += data[i] > 127;
  return painted / (data.length / 4);
}

function tell() {
  const part = share();
  at("mask-state").textContent = part ? `${Math.max(1, Math.round(100 * part))} % will be drawn anew` : "Nothing is painted yet";
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
}

canvas.addEventListener("pointerdown", (event) => {
  event.preventDefault();
  canvas.focus();
  canvas.setPointerCapture(event.pointerId);
  open.from = place(event);
  open.before = tool() === "circle" ? paint.getImageData(0, 0, canvas.width, canvas.height) : null;
  if (!open.before) stroke(open.from, open.from, radius());
});
canvas.addEventListener("pointermove", (event) => {
  if (!open?.from) return;
  const here = place(event);
  if (open.before) {
    paint.putImageData(open.before, 0, 0);
    circle(open.from, here);
  } else {
    stroke(open.from, here, radius());
    open.from = here;
  }
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, () => { if (open) [open.from, open.before] = [null, null]; tell(); });
}
canvas.addEventListener("keydown", (event) => {
  const step = Math.max(canvas.width, canvas.height) / 24;
  const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
  if (!move && event.key !== " ") return;
  event.preventDefault();
  if (move) {
    const bound = (value, most) => Math.min(most, Math.max(0, value));
    open.cursor = [bound(open.cursor[0] + move[0], canvas.width), bound(open.cursor[1] + move[1], canvas.height)];
    const percent = (value, whole) => Math.round((100 * value) / whole);
    at("mask-state").textContent =
      `at ${percent(open.cursor[0], canvas.width)} % from the left, ${percent(open.cursor[1], canvas.height)} % from the top`;
  } else {
    stroke(open.cursor, open.cursor, radius());
    tell();
  }
});
at("mask-clear").addEventListener("click", () => { paint.clearRect(0, 0, canvas.width, canvas.height); tell(); });
at("mask-done").addEventListener("click", () => at("masking").close());
at("masking").addEventListener("close", () => {
  if (!open) return;
  const { input, done } = open;
  open = null;
  if (share()) {
    input.mask = new OffscreenCanvas(canvas.width, canvas.height);
    input.mask.getContext("2d").drawImage(canvas, 0, 0);
  } else input.mask = null;
  done();
});
