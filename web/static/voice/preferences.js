/** What the user chose is kept in this browser, and nowhere else; what is unreadable is what was never chosen. */

const KEY = "packet-voice";

export const DEFAULTS = Object.freeze({
  deviceId: "",
  outputId: "",
  echoCancellation: true,
  noiseSuppression: true,
  autoGainControl: true,
  barge: "duck", // off, duck or flush
  vad: false,
  words: "off", // off, whisper or browser
  wordsModel: "", // empty is the first of the list
  shortcuts: true,
  sampling: Object.freeze({}), // only what was set: the rest is the server's choice
});

export function loadPreferences(storage) {
  try {
    const kept = JSON.parse(storage.getItem(KEY)) ?? {};
    const known = Object.entries(kept).filter(([name, value]) => typeof value === typeof DEFAULTS[name]);
    return { ...DEFAULTS, ...Object.fromEntries(known) };
  } catch {
    return { ...DEFAULTS };
  }
}

export function keepPreferences(storage, preferences) {
  try {
    storage.setItem(KEY, JSON.stringify(preferences));
  } catch {
    // A browser that keeps nothing (private mode, full): the choice holds until the page closes.
  }
}
