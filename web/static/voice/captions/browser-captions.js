/**
 * Captions of the user by the browser's own speech recognition, if it runs on this device.
 *
 * Many browsers send the audio to a server of the vendor; that is not used. Source: Web Speech API,
 * `processLocally`.
 */

// Recognition goes on after these (Web Speech API, SpeechRecognitionErrorCode).
const PASSING = new Set(["no-speech", "aborted"]);

export class BrowserCaptions {
  constructor({ preferences, onEvent }) {
    this._preferences = preferences;
    this._emit = onEvent;
    this._recognition = null;
    this._isLive = false;
  }

  onEvent(event, phase) {
    if ((phase === "live") === this._isLive && event.kind !== "preferences") return;
    this._isLive = phase === "live";
    this._update();
  }

  get _isWanted() {
    return this._isLive && this._preferences.captions === "browser";
  }

  /** Start or stop, depending on the preference and the phase of the call. */
  async _update() {
    if (!this._isWanted) {
      this._recognition?.abort();
      this._recognition = null;
      return;
    }
    if (this._recognition !== null) return;
    const isAvailable = await isLocalRecognitionAvailable();
    if (!this._isWanted || this._recognition !== null) return; // changed meanwhile
    if (isAvailable) this._start();
    else this._fail("not available for your language");
  }

  _start() {
    const recognition = new globalThis.SpeechRecognition();
    recognition.processLocally = true;
    recognition.continuous = true;
    recognition.interimResults = true;
    recognition.lang = navigator.language;
    let spokenMs = null; // when the current utterance began
    let hasText = false;
    recognition.onspeechstart = () => {
      if (!hasText) spokenMs = performance.now(); // otherwise it goes on
    };
    recognition.onresult = ({ results, resultIndex }) => {
      const result = results[resultIndex];
      spokenMs ??= performance.now();
      hasText = !result.isFinal;
      this._emit({ kind: "user_text", text: result[0].transcript.trim(), final: result.isFinal, spokenMs });
      if (result.isFinal) spokenMs = null;
    };
    recognition.onerror = ({ error }) => {
      if (this._recognition !== recognition || PASSING.has(error)) return;
      this._recognition = null; // it would fail again and again
      this._fail(error);
    };
    recognition.onend = () => {
      [spokenMs, hasText] = [null, false];
      if (this._recognition === recognition) recognition.start(); // recognition ends by itself after a pause
    };
    recognition.start();
    this._recognition = recognition;
  }

  _fail(message) {
    this._emit({ kind: "captions", state: "not_ready", why: "browser", message: `Speech recognition failed: ${message}.` });
  }
}

/** Whether this browser can recognize the user's language without sending audio to a server. */
export async function isLocalRecognitionAvailable() {
  const options = { langs: [navigator.language], processLocally: true };
  return (await globalThis.SpeechRecognition?.available?.(options)) === "available";
}
