/**
 * The browser's own recognition writes the user's words down only where it does so on this device.
 *
 * Many browsers send sound to their maker for this; such a one is refused, plainly. Source: Web Speech API,
 * `processLocally`.
 */

export class Captions {
  constructor(preferences, { heed }) {
    this._preferences = preferences;
    this._tell = heed;
    this._recognition = null;
    this._live = false;
  }

  heed(event, phase) {
    if ((phase === "live") === this._live && event.kind !== "preferences") return;
    this._live = phase === "live";
    this._update();
  }

  /** Follow the setting and the conversation. */
  async _update() {
    const wanted = this._live && this._preferences.words === "browser";
    if (!wanted) {
      this._recognition?.abort();
      this._recognition = null;
    } else if (this._recognition === null && (await isLocal())) this._start();
  }

  _start() {
    const recognition = new globalThis.SpeechRecognition();
    recognition.processLocally = true;
    recognition.continuous = true;
    recognition.interimResults = true;
    recognition.lang = navigator.language;
    recognition.onresult = ({ results, resultIndex }) => {
      const result = results[resultIndex];
      this._tell({ kind: "user_text", text: result[0].transcript.trim(), final: result.isFinal });
    };
    recognition.onend = () => {
      if (this._recognition === recognition) recognition.start(); // it ends by itself after a pause
    };
    recognition.start();
    this._recognition = recognition;
  }
}

/** Whether this browser recognizes its user's language without sending sound anywhere. */
export async function isLocal() {
  const options = { langs: [navigator.language], processLocally: true };
  return (await globalThis.SpeechRecognition?.available?.(options)) === "available";
}
