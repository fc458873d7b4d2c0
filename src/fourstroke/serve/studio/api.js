// Talking to the server: requests with their key, and the events of a drawing.

import { at } from "/dom.js";

/** fetch, with the API key if the server wants one; anything but success becomes an Error with the server's reason. */
export async function ask(path, options = {}) {
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

/** The same with a JSON body. */
export function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

function login() {
  at("login").showModal();
  return new Promise((resolve) => at("login").addEventListener("close", () => {
    sessionStorage.setItem("fourstroke-key", at("key").value);
    resolve();
  }, { once: true }));
}

/** Events [name, data] of a server-sent event stream (Response); comments are passed over. */
export async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const text = lines.filter((l) => l.startsWith("data: ")).map((l) => l.slice(6)).join("\n");
      const name = lines.find((l) => l.startsWith("event: "))?.slice(7) ?? "message";
      if (text) yield [name, JSON.parse(text)];
    }
  }
}
