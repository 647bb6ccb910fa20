"""The landing page says what this is and whether it is ready, and promises nothing else.

One HTML document with its styles inside; the policy it is served under allows those styles by
their hash and nothing more. It reads without them, in the dark, and at any width.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quart import render_template_string

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #5c6670; --paper: #fbfaf7; --line: #dedbd2;
  --ready: #1a7f4b; --wait: #9a6700; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6e1; --faint: #9aa3ac; --paper: #15181b; --line: #2c3136;
    --ready: #4cc38a; --wait: #e2a336; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 17px/1.6 system-ui, sans-serif; }
main { max-width: 40rem; margin: 0 auto; padding: clamp(2rem, 8vh, 6rem) 1.5rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .75rem; letter-spacing: -.02em; }
.lead { color: var(--faint); margin: 0 0 2rem; }
.state { display: flex; gap: .75rem; align-items: baseline; padding: 1rem 1.25rem; margin: 0 0 2rem;
  border: 1px solid var(--line); border-radius: .75rem; }
.state strong { white-space: nowrap; }
.ready strong { color: var(--ready); }
.waiting strong { color: var(--wait); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.5rem; margin: 0 0 2rem; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
code { font: .92em ui-monospace, monospace; }
a { color: inherit; text-underline-offset: .2em; }
footer { border-top: 1px solid var(--line); padding-top: 1rem; color: var(--faint); font-size: .9rem; }
"""
STYLE_HASH = f"sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}"

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>packet-voice</title>
<style>{{ style | safe }}</style>
<main>
<h1>Speech to speech, on this machine</h1>
<p class="lead">A full-duplex voice server. What you say is answered by a model that runs here;
no sound and no transcript leaves this computer.</p>
<p class="state {{ 'ready' if ready else 'waiting' }}" role="status"><strong>{{ headline }}</strong>
<span>{{ sentence }}</span></p>
<dl>{% for term, value in facts %}<dt>{{ term }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
<p>Talk to it from a terminal:</p>
<p><code>python -m pipeline.talk --url {{ url }} --in question.wav --out answer.wav</code></p>
<footer>For programs: <a href="/health">/health</a> · <a href="/weights">/weights</a> · packets on
<code>/ws</code>, described in <code>docs/protocol.md</code> of the source.</footer>
</main>
</html>
"""


@dataclass(frozen=True, slots=True)
class Landing:
    """What the page shows. `facts` are (term, value) pairs, in order; `url` is where to talk."""

    ready: bool
    headline: str
    sentence: str
    facts: Sequence[tuple[str, str]]
    url: str


# By the `status` of /health.
_STATES: Mapping[str, tuple[str, str]] = {
    "ready": ("Ready", "The models are loaded; a conversation can start now."),
    "not_ready": ("Loading", "The models are being loaded. Until then nothing answers."),
    "draining": ("Shutting down", "Conversations are being finished; no new one starts."),
}


def describe(health: Mapping[str, Any], model: Mapping[str, Any] | None, *, host: str) -> Landing:
    """The page of a server in this state, asked for under this `host:port`; `model` once it is loaded."""
    headline, sentence = _STATES[health["status"]]
    lanes = health["lanes"]
    facts = [] if model is None else [("Model", model["name"])]
    if model is not None and not model["trained"]:
        facts.append(("Untrained", "Its weights are random: what it says is noise, honestly computed."))
    facts += [
        ("Conversations", f"{lanes['open']} of {lanes['max']}, {lanes['queued']} waiting"),
        ("Up for", _duration(health["uptimeS"])),
    ]
    return Landing(health["status"] == "ready", headline, sentence, facts, f"ws://{host}/ws")


async def render(landing: Landing) -> str:
    """The page; every value is escaped, only its own styles are not."""
    return await render_template_string(
        _PAGE,
        style=STYLE,
        ready=landing.ready,
        headline=landing.headline,
        sentence=landing.sentence,
        facts=landing.facts,
        url=landing.url,
    )


def _duration(seconds: float) -> str:
    """Hours and minutes, the way one says it."""
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
