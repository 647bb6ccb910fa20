"""A page with a `Transcriber` that tests call directly."""

import base64
import re
from typing import Any

import numpy as np
import numpy.typing as npt
from playwright.sync_api import Page

from support.browser.chromium import Visit

# Workers are counted, so that leaked ones are detected.
OPEN = """async ({base, limits}) => {
  const { Transcriber } = await import(`${base}/asr/transcriber.js`);
  const Plain = Worker;
  globalThis.workers = new Set();
  globalThis.Worker = class extends Plain {
    constructor(...given) { super(...given); workers.add(this); }
    terminate() { super.terminate(); workers.delete(this); }
  };
  globalThis.events = [];
  globalThis.whisper = new Transcriber({ onEvent: (event) => events.push(event), limits });
  globalThis.samples = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  globalThis.outcome = (promise) => promise.then(
    (result) => ({ result }), ({ code, message, facts }) => ({ error: { code, message, facts } }));
}"""


class AsrPage:
    """A page with a `Transcriber`; the methods call the methods of the same name and return their results."""

    def __init__(self, visit: Visit, *, path: str = "/packet-voice", **limits: object) -> None:
        self.page: Page = visit(path)
        base = re.search(r"/static/\w+", self.page.content())
        assert base is not None
        self.page.evaluate(OPEN, {"base": base[0], "limits": limits})

    def load(self, model: str = "tiny", **settings: object) -> dict[str, Any]:
        return self._result("whisper.load(given)", {"model": model, **settings})

    def plan(self, model: str = "tiny", **settings: object) -> dict[str, Any]:
        return self._result("whisper.plan(given)", {"model": model, **settings})

    def load_error(self, model: str = "tiny", **settings: object) -> dict[str, Any]:
        """The error of a failing `load`."""
        return self._error("whisper.load(given)", {"model": model, **settings})

    def transcribe(self, sound: npt.NDArray[np.float32], **options: object) -> dict[str, Any]:
        given = {"sound": packed(sound), "options": options}
        return self._result("whisper.transcribe(samples(given.sound), given.options)", given)

    def transcribe_error(self, sound: npt.NDArray[np.float32], **options: object) -> dict[str, Any]:
        """The error of a failing `transcribe`."""
        given = {"sound": packed(sound), "options": options}
        return self._error("whisper.transcribe(samples(given.sound), given.options)", given)

    def stream(self, sound: npt.NDArray[np.float32], *, piece_s: float = 0.1, **options: object) -> None:
        """Stream the audio in pieces, each after the previous one was processed."""
        script = """async ({sound, piece, options}) => {
          const stream = whisper.stream(options);
          const all = samples(sound);
          for (let at = 0; at < all.length; at += piece) {
            stream.push(all.subarray(at, at + piece));
            do {
              await new Promise((done) => setTimeout(done));
            } while (stream._pendingSamples > 0 || stream._isBusy);
          }
          await stream.flush();
          stream.stop();
        }"""
        given = {"sound": packed(sound), "piece": round(16_000 * piece_s), "options": options}
        self.page.evaluate(script, given)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The events of one type so far."""
        return list(self.page.evaluate("(kind) => events.filter(({type}) => type === kind)", kind))

    def _result(self, call: str, given: object) -> dict[str, Any]:
        return dict(self.page.evaluate(f"(given) => {call}", given))

    def _error(self, call: str, given: object) -> dict[str, Any]:
        outcome = self.page.evaluate(f"(given) => outcome((async () => {call})())", given)
        assert "error" in outcome, f"no error: {outcome}"
        return dict(outcome["error"])


def packed(sound: npt.NDArray[np.float32]) -> str:
    return base64.b64encode(sound.astype("<f4").tobytes()).decode()


def texts(result: dict[str, Any]) -> str:
    return "".join(segment["text"] for segment in result["segments"])
