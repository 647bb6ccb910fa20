"""The landing page: what the server is, whether it is ready, and where to go.

One HTML document with inline styles, allowed by their hash, and one small script of this server that keeps
the state up to date. It is readable without either, in dark mode, and at any width.
"""

import base64
import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from quart import render_template_string

from pipeline.install.paths import NAME
from pipeline.install.program_name import (
    installed_command,
    interpreter,
    is_installed_command,
    is_started_by_make,
)
from pipeline.install.started_as import LanCommands
from web.security.origin import content_security_policy

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #59636d; --paper: #fbfaf7; --card: #fff;
  --line: #dedbd2; --user: #0b7285; --agent: #b0431b; --on-accent: #fff; --ready: #1a7046; --wait: #8a5a00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6e1; --faint: #9aa4ad; --paper: #14171a; --card: #1b1f23; --line: #2e343a;
    --user: #5cc8da; --agent: #f09a72; --on-accent: #14171a; --ready: #4cc38a; --wait: #e2a336; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 106%/1.6 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 44rem; margin: 0 auto; padding: clamp(2rem, 9vh, 6rem) 1.5rem 3rem; }
.wave { display: block; width: 100%; height: 5.5rem; margin: 0 0 1.75rem; }
.wave .you { fill: var(--user); }
.wave .agent { fill: var(--agent); }
h1 { font-size: clamp(2rem, 6vw, 3rem); line-height: 1.1; margin: 0 0 1rem; letter-spacing: -.03em; }
h2 { font-size: 1rem; margin: 2.25rem 0 .5rem; }
h2 + p, pre + p { margin: 0; }
.lead { color: var(--faint); font-size: 1.12rem; margin: 0 0 2rem; max-width: 36rem; }
.start { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; align-items: center; margin: 0 0 2rem; }
.talk { display: inline-flex; align-items: center; min-height: 54px; padding: 0 1.75rem; border-radius: 99px;
  background: var(--user); color: var(--on-accent); font-weight: 620;
  font-size: 1.08rem; text-decoration: none; }
.talk:hover { filter: brightness(1.08); }
@media (forced-colors: active) { .talk { color: LinkText; border: 1px solid; } }
:focus-visible { outline: 3px solid var(--user); outline-offset: 3px; }
.state { margin: 0; }
.ready strong { color: var(--ready); }
.waiting strong { color: var(--wait); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .5rem 1.5rem; margin: 0;
  padding: 1.1rem 1.35rem; background: var(--card); border: 1px solid var(--line); border-radius: 14px; }
dl:empty { display: none; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { margin: .5rem 0; padding: .9rem 1.2rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 14px; white-space: pre; overflow-x: auto; }
button { font: inherit; font-size: .92rem; color: inherit; min-height: 44px; padding: 0 1.1rem;
  cursor: pointer; border: 1px solid var(--line); border-radius: 99px; background: var(--card); }
[hidden] { display: none; }
code { font: .88rem/1.6 ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", monospace; }
a { color: inherit; text-underline-offset: .2em; }
footer { margin-top: 2.5rem; color: var(--faint); font-size: .92rem; }
@media (max-height: 30rem) { main { padding-top: 1rem; } .wave { display: none; }
  .lead, .start { margin-bottom: 1rem; } }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin: 0 0 .6rem; } }
"""
STYLE_HASH = f"sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}"
POLICY = (
    f"{content_security_policy(style_hashes=[STYLE_HASH])}; "
    "script-src 'self'; connect-src 'self'; img-src 'self'; manifest-src 'self'"
)

_PAGE = """{% macro copy(of, name) %}<p><button type="button" data-copy="{{ of }}" \
aria-label="{{ name }}" hidden>Copy command</button> <span role="status"></span></p>{% endmacro %}\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="description" content="Talk to a speech model that runs on your own machine, in real time.">
<title>packet-voice</title>
<meta name="invite" content="{{ invite }}">
<link rel="icon" href="{{ static }}/icon.svg" type="image/svg+xml">
<link rel="apple-touch-icon" href="{{ static }}/touch-icon.png">
<link rel="manifest" href="{{ static }}/manifest.webmanifest">
<script type="module" src="{{ static }}/landing.js"></script>
<style>{{ style | safe }}</style>
<main>
<svg class="wave" viewBox="0 0 640 80" preserveAspectRatio="xMinYMid meet" aria-hidden="true">
{% for speaker, x, height in bars %}<rect class="{{ speaker }}" x="{{ x }}" y="{{ 40 - height / 2 }}"
 width="5" height="{{ height }}" rx="2.5"/>{% endfor %}</svg>
<h1>Talk to a local speech model</h1>
<p class="lead">Talk in real time: the model listens while it speaks.
Audio and words go to {{ computer }} and no further.</p>
<div class="start"><a class="talk" href="./packet-voice">Open the voice page</a>
<p class="state {{ 'ready' if ready else 'waiting' }}" id="state" role="status">
<strong>{{ headline }}.</strong> <span>{{ sentence }}</span></p></div>
<dl id="facts">{% for term, value in facts %}<dt>{{ term }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% if phone %}<h2>On a phone</h2>
{% if phone.is_open %}<p>Scan the QR code that the server showed in its terminal. To show code and link
again:</p>
{% else %}<p>Restart the server with <code>--lan</code>, then scan the QR code that its terminal shows:</p>
<pre tabindex="0" aria-label="Command for a phone">\
<code id="command-lan">{{ phone.commands.run }}</code></pre>
{{ copy("command-lan", "Copy command for a phone") }}
<p>From then on, the link that it shows, which begins with https, is the address on this computer, too.</p>
<p>Where there is no terminal, as for a service, this shows the link and the code:</p>
{% endif %}<pre tabindex="0" aria-label="Command for the link">\
<code id="command-invite">{{ phone.commands.invite }}</code></pre>
{{ copy("command-invite", "Copy command for the link") }}
{% endif %}<h2>Transcription</h2>
<p><a href="./whisperx">Transcribe speech</a> from the microphone or a file, with Whisper in your browser.</p>
<h2>Command line</h2>
<p>Save <a href="./question.wav" download>question.wav</a> in {{ folder }}, then run there:</p>
<pre tabindex="0" aria-label="Command"><code id="command">{{ command }}</code></pre>
{{ copy("command", "Copy command") }}
<footer>API: <a href="./health">health</a> and <a href="./weights">weights</a> as JSON; the WebSocket at
<code>/ws</code> is described in docs/reference/protocol.md, in the project’s folder.</footer>
</main>
</html>
"""
# Two speakers in turn, as the voice page draws them: who, and the height of each bar.
_VOICES = (
    ("you", (8, 18, 34, 52, 40, 60, 74, 48, 30, 44, 26, 12, 6)),
    ("agent", (6, 14, 28, 22, 46, 64, 50, 70, 56, 38, 48, 30, 42, 24, 16, 8)),
    ("you", (6, 20, 36, 26, 46, 32, 14, 6)),
    ("agent", (10, 24, 42, 60, 44, 54, 36, 50, 28, 18, 10, 6)),
)
_BAR_PX = 13
THIS_COMPUTER: Final = "this computer"
SERVER_COMPUTER: Final = "the computer that runs the server"
_LOOPBACK: Final = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?")


def is_loopback(host: str) -> bool:
    """Whether a Host header names the visitor's own computer."""
    return _LOOPBACK.fullmatch(host) is not None


def _bars() -> tuple[tuple[str, int, int], ...]:
    """For each bar: the speaker, x and height, in pixels."""
    bars = [(speaker, height) for speaker, heights in _VOICES for height in heights]
    return tuple((speaker, _BAR_PX * i, height) for i, (speaker, height) in enumerate(bars))


@dataclass(frozen=True, slots=True)
class Phone:
    """How a phone reaches this server: `is_open` if it already can."""

    commands: LanCommands
    is_open: bool


@dataclass(frozen=True, slots=True)
class Landing:
    """What the page shows. `facts` are (term, value) pairs, in order; `command` asks a question."""

    ready: bool
    headline: str
    sentence: str
    facts: Sequence[tuple[str, str]]
    command: str
    folder: str  # where the command works
    computer: str = THIS_COMPUTER
    phone: Phone | None = None
    invite: str = ""  # the command that shows the link


# By the state of /health; `web/static/landing.js` has the same words.
_STATES: Mapping[str, tuple[str, str]] = {
    "ready": ("Ready", "The models are loaded."),
    "full": ("Full", "All sessions are in use; a new conversation waits in the queue."),
    "not_ready": ("Loading", "The models are still loading; sessions cannot start yet."),
    "draining": ("Shutting down", "Running sessions are finishing; no new ones can start."),
}


def describe(
    health: Mapping[str, Any],
    model: Mapping[str, Any] | None,
    *,
    url: str,
    host: str = "localhost",
    phone: Phone | None = None,
) -> Landing:
    """The page for this /health state and packet WebSocket `url`; `model` is None while it is loading.

    `host`: as the visitor wrote it.
    """
    computer = THIS_COMPUTER if is_loopback(host) else SERVER_COMPUTER
    lanes = health["lanes"]
    is_full = health["status"] == "ready" and (lanes["queued"] > 0 or lanes["room"] == 0)
    headline, sentence = _STATES["full" if is_full else health["status"]]
    facts = [] if model is None else [("Model", model["name"])]
    if model is not None and not model["trained"]:
        facts.append(("Untrained", "The weights are random, so the output is noise."))
    if (capacity := health["capacity"]) is not None and capacity["advice"] is not None:
        advice = str(capacity["advice"]).replace("This machine", f"{computer[:1].upper()}{computer[1:]}")
        facts.append(("Too slow", advice))
    facts += [
        ("Sessions", f"{lanes['running']} of {lanes['limit']}, {lanes['queued']} queued"),
        ("Uptime", _duration(health["uptimeS"])),
    ]
    name, folder = _client(is_public=not is_loopback(host))
    command = f"{name} talk --url {url} --in question.wav --out answer.wav"
    ready = health["status"] == "ready" and not is_full
    invite = LanCommands.for_visitor(here=is_loopback(host)).invite
    return Landing(ready, headline, sentence, facts, command, folder, computer, phone, invite)


def _client(*, is_public: bool) -> tuple[str, str]:
    """How the command-line client is called where this server was started, and in which folder."""
    if is_installed_command():
        command = installed_command()
        return command, "any folder" if command == NAME else "the folder in which the server was started"
    if is_started_by_make():  # nobody has activated the environment
        return ".venv/bin/packet-voice", "the project's folder"
    return f"{shlex.quote(interpreter(is_public=is_public))} -m pipeline", "the project's folder"


async def render(landing: Landing, static: str) -> str:
    """The page as HTML; every value is escaped. `static`: the path of the pages' files."""
    return await render_template_string(
        _PAGE,
        style=STYLE,
        bars=_bars(),
        ready=landing.ready,
        headline=landing.headline,
        sentence=landing.sentence,
        facts=landing.facts,
        command=landing.command,
        folder=landing.folder,
        computer=landing.computer,
        phone=landing.phone,
        invite=landing.invite,
        static=static,
    )


def _duration(seconds: float) -> str:
    """`2 h 5 min`, or `5 min` below an hour."""
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
