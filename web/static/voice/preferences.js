/** The user's preferences, kept in this browser's localStorage; anything unreadable falls back to the default. */

const KEY = "packet-voice";

export const DEFAULTS = Object.freeze({
  deviceId: "",
  outputId: "",
  echoCancellation: true,
  noiseSuppression: true,
  autoGainControl: true,
  bargeIn: "duck", // off, duck or flush
  vad: false,
  captions: "off", // off, whisper or browser
  captionsModel: "", // empty: the first model of the list
  shortcuts: true,
  voice: "", // empty: the server's default
  role: "",
  sampling: Object.freeze({}), // only the values that were set; the server has defaults for the others
});

// Names used by earlier versions of the page.
const FORMER_NAMES = Object.freeze({ barge: "bargeIn", words: "captions", wordsModel: "captionsModel" });

export function loadPreferences(storage) {
  try {
    const stored = Object.entries(JSON.parse(storage.getItem(KEY)) ?? {});
    const renamed = stored.map(([name, value]) => [FORMER_NAMES[name] ?? name, value]);
    const known = renamed.filter(([name, value]) => typeof value === typeof DEFAULTS[name]);
    return { ...DEFAULTS, ...Object.fromEntries(known) };
  } catch {
    return { ...DEFAULTS };
  }
}

export function savePreferences(storage, preferences) {
  try {
    storage.setItem(KEY, JSON.stringify(preferences));
  } catch {
    // Storage is full or disabled (private browsing): the preferences last until the page is closed.
  }
}
