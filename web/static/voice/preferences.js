/** The user's preferences, kept in this browser's localStorage; anything unreadable falls back to the default. */

const KEY = "packet-voice";

export const DEFAULTS = Object.freeze({
  deviceId: "",
  outputId: "",
  echoCancellation: true,
  noiseSuppression: true,
  autoGainControl: true,
  bargeIn: "duck", // off, duck or flush
  vad: "level", // off, level or silero
  talkMode: "open", // open, or push: the microphone is muted unless a button or the space bar is held
  volume: 1, // of the agent; up to 2, limited so that it does not clip
  captions: "auto", // auto (Whisper, if a model is stored in this browser), off, whisper or browser
  captionsModel: "", // empty: one that is stored, or else the first of the list
  shortcuts: true,
  history: false, // keep transcripts of past conversations in this browser
  voice: "", // empty: the server's default
  role: "",
  sampling: Object.freeze({}), // only the values that were set; the server has defaults for the others
});

// Names used by earlier versions of the page.
const FORMER_NAMES = Object.freeze({ barge: "bargeIn", words: "captions", wordsModel: "captionsModel" });

export function loadPreferences(storage) {
  try {
    const stored = Object.entries(JSON.parse(storage.getItem(KEY)) ?? {});
    const renamed = stored
      .map(([name, value]) => [FORMER_NAMES[name] ?? name, value])
      .map(([name, value]) => [name, name === "vad" && value === true ? "silero" : value]);
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
