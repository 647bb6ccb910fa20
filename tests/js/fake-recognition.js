/** The browser's own speech recognition, as a test drives it. */

import { BrowserCaptions } from "voice/captions/browser-captions.js";

/** Run a test on captions that have begun: `started` are the recognitions, `events` what the captions report. */
export async function inRecognition(run) {
  const kept = globalThis.SpeechRecognition;
  const [events, started] = [[], []];
  globalThis.SpeechRecognition = class {
    static async available() {
      return "available";
    }
    start() {
      started.push(this);
    }
    abort() {}
  };
  try {
    const captions = new BrowserCaptions({ preferences: { captions: "browser" }, onEvent: (event) => events.push(event) });
    await captions.onEvent({ kind: "ready" }, "live");
    for (let i = 0; i < 5; i += 1) await Promise.resolve();
    await run({ started, events });
  } finally {
    globalThis.SpeechRecognition = kept;
  }
}
