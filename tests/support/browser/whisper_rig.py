"""A page with a transcriber to talk to, and nothing between the two but the wire."""

import base64
import re
from typing import Any

import numpy as np
import numpy.typing as npt
from playwright.sync_api import Page

from support.browser.visitors import Visit

# Workers are counted, so that one that is forgotten shows.
OPEN = """async ({base, limits}) => {
  const { Transcriber } = await import(`${base}/asr/transcriber.js`);
  const Plain = Worker;
  globalThis.workers = new Set();
  globalThis.Worker = class extends Plain {
    constructor(...given) { super(...given); workers.add(this); }
    terminate() { super.terminate(); workers.delete(this); }
  };
  globalThis.told = [];
  globalThis.whisper = new Transcriber({ onEvent: (event) => told.push(event), limits });
  globalThis.samples = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  globalThis.outcome = (promise) => promise.then(
    (result) => ({ result }), ({ code, message, facts }) => ({ trouble: { code, message, facts } }));
}"""


class Listener:
    """A page with a `Transcriber`; each method is one of its, and gives what it gave."""

    def __init__(self, visit: Visit, *, path: str = "/packet-voice", **limits: object) -> None:
        self.page: Page = visit(path)
        base = re.search(r"/static/\w+", self.page.content())
        assert base is not None
        self.page.evaluate(OPEN, {"base": base[0], "limits": limits})

    def load(self, model: str = "tiny", **settings: object) -> dict[str, Any]:
        return self._done("whisper.load(given)", {"model": model, **settings})

    def plan(self, model: str = "tiny", **settings: object) -> dict[str, Any]:
        return self._done("whisper.plan(given)", {"model": model, **settings})

    def load_trouble(self, model: str = "tiny", **settings: object) -> dict[str, Any]:
        """How `load` fails."""
        return self._trouble("whisper.load(given)", {"model": model, **settings})

    def transcribe(self, sound: npt.NDArray[np.float32], **options: object) -> dict[str, Any]:
        given = {"sound": packed(sound), "options": options}
        return self._done("whisper.transcribe(samples(given.sound), given.options)", given)

    def transcribe_trouble(self, sound: npt.NDArray[np.float32], **options: object) -> dict[str, Any]:
        """How `transcribe` fails."""
        given = {"sound": packed(sound), "options": options}
        return self._trouble("whisper.transcribe(samples(given.sound), given.options)", given)

    def stream(self, sound: npt.NDArray[np.float32], *, piece_s: float = 0.1, **options: object) -> None:
        """All of a sound through a stream; the next piece comes when the one before is dealt with."""
        script = """async ({sound, piece, options}) => {
          const stream = whisper.stream(options);
          const all = samples(sound);
          for (let at = 0; at < all.length; at += piece) {
            stream.push(all.subarray(at, at + piece));
            do await new Promise((done) => setTimeout(done)); while (stream._unheard > 0 || stream._isBusy);
          }
          await stream.flush();
          stream.stop();
        }"""
        given = {"sound": packed(sound), "piece": round(16_000 * piece_s), "options": options}
        self.page.evaluate(script, given)

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The events of one type so far."""
        return list(self.page.evaluate("(kind) => told.filter(({type}) => type === kind)", kind))

    def _done(self, call: str, given: object) -> dict[str, Any]:
        return dict(self.page.evaluate(f"(given) => {call}", given))

    def _trouble(self, call: str, given: object) -> dict[str, Any]:
        outcome = self.page.evaluate(f"(given) => outcome((async () => {call})())", given)
        assert "trouble" in outcome, f"it did not fail: {outcome}"
        return dict(outcome["trouble"])


def packed(sound: npt.NDArray[np.float32]) -> str:
    return base64.b64encode(sound.astype("<f4").tobytes()).decode()


def texts(result: dict[str, Any]) -> str:
    return "".join(segment["text"] for segment in result["segments"])
