/**
 * Captions of the user by the browser's own speech recognition, if it runs on this device.
 *
 * Many browsers send the audio to a server of the vendor; that is not used. Source: Web Speech API,
 * `processLocally`.
 */

export class BrowserCaptions {
  constructor(preferences, { onEvent }) {
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

  /** Start or stop, depending on the preference and the phase of the call. */
  async _update() {
    const isWanted = this._isLive && this._preferences.captions === "browser";
    if (!isWanted) {
      this._recognition?.abort();
      this._recognition = null;
    } else if (this._recognition === null && (await isLocalRecognitionAvailable())) this._start();
  }

  _start() {
    const recognition = new globalThis.SpeechRecognition();
    recognition.processLocally = true;
    recognition.continuous = true;
    recognition.interimResults = true;
    recognition.lang = navigator.language;
    recognition.onresult = ({ results, resultIndex }) => {
      const result = results[resultIndex];
      this._emit({ kind: "user_text", text: result[0].transcript.trim(), final: result.isFinal });
    };
    recognition.onend = () => {
      if (this._recognition === recognition) recognition.start(); // recognition ends by itself after a pause
    };
    recognition.start();
    this._recognition = recognition;
  }
}

/** Whether this browser can recognize the user's language without sending audio to a server. */
export async function isLocalRecognitionAvailable() {
  const options = { langs: [navigator.language], processLocally: true };
  return (await globalThis.SpeechRecognition?.available?.(options)) === "available";
}
