// The settings that our server writes into its PNGs: an iTXt chunk with the keyword "fourstroke".

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

/** The settings inside a PNG (ArrayBuffer), or null. */
export function readSettings(buffer) {
  const bytes = new Uint8Array(buffer);
  if (bytes.length < 8 || SIGNATURE.some((value, i) => bytes[i] !== value)) return null;
  const view = new DataView(buffer);
  const latin = new TextDecoder("latin1");
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at);
    const kind = latin.decode(bytes.subarray(at + 4, at + 8));
    if (at + 12 + length > bytes.length || kind === "IEND") return null;
    if (kind === "iTXt") {
      const found = settingsOf(bytes.subarray(at + 8, at + 8 + length));
      if (found) return found;
    }
    at += 12 + length;
  }
  return null;
}

/** keyword 0 compressed method language 0 translated 0 text */
function settingsOf(data) {
  const keyword = data.indexOf(0);
  const language = data.indexOf(0, keyword + 3);
  const translated = data.indexOf(0, language + 1);
  if (keyword < 0 || language < 0 || translated < 0 || data[keyword + 1] !== 0) return null;
  if (new TextDecoder("latin1").decode(data.subarray(0, keyword)) !== "fourstroke") return null;
  try {
    const settings = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(data.subarray(translated + 1)));
    return settings && typeof settings.prompt === "string" ? settings : null;
  } catch {
    return null;
  }
}

/** Bytes of a base64 text. */
export function decodeBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
