"""The pages and their files, all from this server; a file under a version never changes.

`/static/<version>/…` is read once at start-up; the version is a digest of all files, so a browser may
cache each one forever. `/vendor/<name-version>/…` are third-party files named by a lock file
(`web.vendor`); where they are missing, the page shows that.

Neighbours: `web.app` registers this, `web.routes.landing` is the start page. What does not belong here:
sessions, which use the WebSocket.
"""

import hashlib
import html
import json
import mimetypes
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio
from quart import Response, abort, request
from quart_trio import QuartTrio

from pipeline.install.started_as import LanCommands
from web.routes.error_pages import add_error_pages
from web.routes.landing import is_loopback
from web.vendor import FOLDER, installed, read_lock

STATIC = Path(__file__).parents[1] / "static"
CACHE_FOREVER = "public, max-age=31536000, immutable"
VERSION_LENGTH = 12
QUESTION = "voice/questions/what-is-three-plus-four.wav"  # for the command on the start page
# What main.js imports as soon as the first screen is drawn.
SOON: Mapping[str, Sequence[str]] = {
    "voice": (
        "voice/call.js",
        "voice/captions/captions.js",
        "voice/prefetch.js",
        "voice/ui/stats-panel.js",
        "voice/ui/waveforms.js",
    ),
    "transcribe": (),
}
# The worker and the worklets of a call.
APART: Mapping[str, Sequence[str]] = {
    "voice": (
        "voice/protocol/connection-worker.js",
        "voice/audio/capture-worklet.js",
        "voice/audio/playback-worklet.js",
    ),
    "transcribe": (),
}
# What is loaded when it is needed, in the order in which that is likely.
LATER: Mapping[str, Sequence[str]] = {
    "voice": (
        "voice/ui/notices.js",
        "voice/vad/vad-worker.js",
        "voice/ui/diagnostics-panel.js",
        "voice/ui/report.js",
        "voice/ui/history.js",
        "voice/ui/recording.js",
        "voice/ui/settings-dialog.js",
        "voice/ui/persona.js",
        "voice/captions/browser-captions.js",
        "voice/captions/whisper-captions.js",
        "asr/model/load-plan.js",
        "icon-off.svg",  # for a server that has gone
    ),
    "transcribe": (),
}
IMPORT = re.compile(r'^(?:import|export|\}) .*?from "(\.{1,2}/[^"]+)";$', re.MULTILINE)
# connect-src 'self' covers ws: of the same origin (CSP 3). A worker has the policy of its own script.
POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; style-src 'self'; "
    "img-src 'self'; manifest-src 'self'; media-src 'self' blob:"
)
TYPES: Mapping[str, str] = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".wav": "audio/wav",
    ".webmanifest": "application/manifest+json",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}


@dataclass(frozen=True, slots=True)
class Assets:
    """All files of the pages, by path under `static/`, and the version of the whole set."""

    files: Mapping[str, bytes]
    version: str

    @property
    def base(self) -> str:
        """The URL path they are served under."""
        return f"/static/{self.version}"


def read_assets(folder: Path = STATIC) -> Assets:
    """Read all files; the version depends on every name and byte."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\n{len(content)}\n".encode() + content)
    return Assets(files, digest.hexdigest()[:VERSION_LENGTH])


def add_pages(app: QuartTrio, health: Callable[[], Mapping[str, object] | None]) -> str:
    """Register `/packet-voice`, `/whisperx`, `/static/…`, `/vendor/…`, `/favicon.ico` and error pages.

    `health`: what /health answers, or None if the visitor may not see it; the voice page is delivered with
    it, so that it need not ask before it shows anything. Returns the path of the files, relative to a page.
    """
    assets = read_assets()
    add_error_pages(app, f"{assets.base}/icon.svg".lstrip("/"))
    vendored = {path.relative_to(FOLDER).as_posix(): path for path in installed()}
    voice, transcriber = _fill_template(assets, "voice"), _fill_template(assets, "transcribe")

    @app.get("/packet-voice")
    async def packet_voice() -> Response:
        now = health()
        commands = LanCommands.for_visitor(here=is_loopback(request.host))
        filled = voice.replace("{{lan}}", html.escape(commands.run))
        filled = filled.replace("{{invite}}", html.escape(commands.invite))
        return _page(filled.replace("{{health}}", "" if now is None else html.escape(json.dumps(now))))

    @app.get("/whisperx")
    async def transcribe() -> Response:
        commands = LanCommands.for_visitor(here=is_loopback(request.host))
        return _page(transcriber.replace("{{invite}}", html.escape(commands.invite)))

    @app.get("/packet-voice/")
    @app.get("/whisperx/")
    async def without_slash() -> Response:
        # Relative, so that it also holds behind a proxy with a path prefix.
        return Response("", status=308, headers={"Location": f"../{request.path.strip('/')}"})

    @app.get("/question.wav")
    async def question() -> Response:
        response = _file("question.wav", assets.files[QUESTION])
        response.headers["Cache-Control"] = "no-cache"
        return response

    @app.get("/favicon.ico")
    async def icon() -> Response:
        return Response(assets.files["icon.svg"], content_type=TYPES[".svg"])

    @app.get("/static/<version>/<path:name>")
    async def static_file(version: str, name: str) -> Response:
        if version != assets.version or name not in assets.files:
            abort(404, "no such file in this version")
        return _file(name, assets.files[name])

    @app.get("/vendor/<path:name>")
    async def vendored_file(name: str) -> Response:
        if name not in vendored:
            abort(404, "not installed: python -m web.vendor")
        return _file(name, await trio.Path(vendored[name]).read_bytes())

    return f".{assets.base}"


def _fill_template(assets: Assets, folder: str) -> str:
    """The page in `folder`, with links to the files of this version.

    The modules of the first screen are preloaded, so that a browser fetches them in parallel, and after
    them those of a call, so that one can be started as soon as it is offered; those needed later are
    named for prefetch.js, which has them fetched then. Workers and worklets only go into the browser's cache,
    since they are run elsewhere. Links also name the installed third-party packages.
    """
    base = f".{assets.base}"  # relative to the page, which may be under a path prefix
    main = f"{folder}/main.js"
    first = _transitive_imports(assets.files, main)
    soon = _transitive_imports(assets.files, *SOON[folder]) - first - {main}
    apart = _transitive_imports(assets.files, *APART[folder])
    later = [
        name
        for start in LATER[folder]
        for name in sorted(_transitive_imports(assets.files, start) - first - soon - apart - {main})
    ]
    links = [f'<link rel="modulepreload" href="{base}/{name}">' for name in sorted(first - {main})]
    links += [f'<link rel="modulepreload" fetchpriority="low" href="{base}/{name}">' for name in sorted(soon)]
    links += [f'<link rel="prefetch" href="{base}/{name}">' for name in sorted(apart - first - soon)]
    if later:
        links.append(f'<meta name="later" content="{" ".join(dict.fromkeys(later))}">')
    links += [
        f'<link rel="vendored" title="{package.name}" href="./vendor/{package.slug}/">'
        for package in read_lock()
        if package.is_installed
    ]
    page = assets.files[f"{folder}/index.html"].decode()
    return page.replace("{{static}}", base).replace("{{preload}}", "\n".join(links))


def _transitive_imports(files: Mapping[str, bytes], *start: str) -> set[str]:
    """These modules and all that they import, directly or not."""
    found, waiting = set(start), [*start]
    while waiting:
        name = waiting.pop()
        for target in IMPORT.findall(files[name].decode()):
            module = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
            if module not in found:
                found.add(module)
                waiting.append(module)
    return found


def _page(content: str) -> Response:
    response = Response(content, mimetype="text/html")
    response.headers["Content-Security-Policy"] = POLICY
    return response


def _file(name: str, content: bytes) -> Response:
    kind = TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    response = Response(content, content_type=kind)
    response.headers["Cache-Control"] = CACHE_FOREVER
    response.headers["Content-Security-Policy"] = POLICY
    return response
