"""What a page loads comes from this server alone, and a file under a version never changes.

The pages for people and the files they are made of. `/static/<version>/…` is read once at the
start; the version is a digest of all of it, so a browser may keep every file for ever and asks
for none twice. `/vendor/<name-version>/…` are third-party files that a lock file names
(`web.vendor`); they may be missing, and the page says so.

Neighbours: `web.app` registers this, `web.routes.landing` is the start page. What does not belong here:
the conversation, which goes over the WebSocket.
"""

import hashlib
import mimetypes
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import trio
from quart import Response, abort
from quart_trio import QuartTrio

from web.vendor import FOLDER, installed, read_lock

STATIC = Path(__file__).parents[1] / "static"
FOR_EVER = "public, max-age=31536000, immutable"
VERSION_LENGTH = 12
IMPORT = re.compile(r'^(?:import|export|\}) .*?from "(\.{1,2}/[^"]+)";$', re.MULTILINE)
# 'self' of connect-src covers ws: of the same origin (CSP 3). A worker goes by the policy of its own script.
POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; style-src 'self'; "
    "img-src 'self'; media-src 'self' blob:"
)
TYPES: Mapping[str, str] = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}


@dataclass(frozen=True, slots=True)
class Assets:
    """Every file of the pages, by its path under `static/`, and the version they make together."""

    files: Mapping[str, bytes]
    version: str

    @property
    def base(self) -> str:
        """Where they are served."""
        return f"/static/{self.version}"


def read_assets(folder: Path = STATIC) -> Assets:
    """Read them all; one changed byte or name is another version."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\n{len(content)}\n".encode() + content)
    return Assets(files, digest.hexdigest()[:VERSION_LENGTH])


def add_pages(app: QuartTrio) -> None:
    """Register `/packet-voice`, `/whisperx`, `/static/…`, `/vendor/…` and the icon that browsers ask for."""
    assets = read_assets()
    vendored = {path.relative_to(FOLDER).as_posix(): path for path in installed()}
    voice, transcriber = _filled(assets, "voice"), _filled(assets, "transcribe")

    @app.get("/packet-voice")
    async def packet_voice() -> Response:
        return _page(voice)

    @app.get("/whisperx")
    async def transcribe() -> Response:
        return _page(transcriber)

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


def _filled(assets: Assets, folder: str) -> str:
    """The page in `folder`, of this version.

    Its modules are named up front, so that a browser asks for all at once; so are the third-party
    packages that are installed, and where they are.
    """
    modules = _imported(assets.files, f"{folder}/main.js")
    links = [f'<link rel="modulepreload" href="{assets.base}/{name}">' for name in modules]
    links += [
        f'<link rel="vendored" title="{package.name}" href="/vendor/{package.slug}/">'
        for package in read_lock()
        if package.is_installed
    ]
    page = assets.files[f"{folder}/index.html"].decode()
    return page.replace("{{static}}", assets.base).replace("{{preload}}", "\n".join(links))


def _imported(files: Mapping[str, bytes], start: str) -> list[str]:
    """Every module that comes with `start`: what it imports, what they import, and so on."""
    found, waiting = {start}, [start]
    while waiting:
        name = waiting.pop()
        for target in IMPORT.findall(files[name].decode()):
            module = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
            if module not in found:
                found.add(module)
                waiting.append(module)
    return sorted(found - {start})


def _page(html: str) -> Response:
    response = Response(html, mimetype="text/html")
    response.headers["Content-Security-Policy"] = POLICY
    return response


def _file(name: str, content: bytes) -> Response:
    kind = TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    response = Response(content, content_type=kind)
    response.headers["Cache-Control"] = FOR_EVER
    response.headers["Content-Security-Policy"] = POLICY
    return response
