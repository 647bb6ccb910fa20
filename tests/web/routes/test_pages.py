"""Pages load files of this server only, immutable under their version."""

import base64
import hashlib
import io
import posixpath
import re
import tarfile
from pathlib import Path

import pytest
from support.web.small_engine import small_server
from support.web.sockets import fetch

from web.routes.pages import read_assets
from web.vendor import Package, VendorError, extract, read_lock

LINK = re.compile(r'(?:href|src)="\.(/[^"]+)"')  # relative: the page may be under a path prefix


PAGES = ("/packet-voice", "/whisperx")
FOLDERS = {"/packet-voice": "voice", "/whisperx": "transcribe"}


@pytest.mark.parametrize("path", PAGES)
async def test_every_file_of_the_page_is_served_and_immutable(path):
    async with small_server() as served:
        page = await fetch(served, path)
        files = [file for file in LINK.findall(page.body.decode()) if file.startswith("/static/")]
        answers = {file: await fetch(served, file) for file in files}
    assert page.headers["cache-control"] == "no-store"
    assert len(files) > 15
    for file, answer in answers.items():
        assert answer.status == 200, file
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert b"{{" not in answer.body, file


@pytest.mark.parametrize("path", PAGES)
async def test_every_static_import_is_preloaded(path):
    """And no other module: worklets and workers load on demand."""
    async with small_server() as served:
        page = (await fetch(served, path)).body.decode()
    files = read_assets().files
    named = {link.split("/", 3)[3] for link in re.findall(r'modulepreload" href="([^"]+)"', page)}
    needed = {f"{FOLDERS[path]}/main.js"}
    for name in needed | named:
        for target in re.findall(r'from "(\.[^"]+)";', files[name].decode()):
            needed.add(posixpath.normpath(f"{name}/../{target}"))
    assert named == {name for name in needed if not name.endswith("/main.js")}
    assert not any(name.endswith(("-worklet.js", "worker.js")) for name in named)


async def test_what_is_needed_later_is_named():
    """What the voice page imports after its first screen, workers and worklets, all with their imports."""
    async with small_server() as served:
        page = (await fetch(served, "/packet-voice")).body.decode()
    files = read_assets().files
    first = {link.split("/", 3)[3] for link in re.findall(r'modulepreload" href="([^"]+)"', page)}
    (names,) = re.findall(r'<meta name="later" content="([^"]+)">', page)
    soon = {link.split("/", 3)[3] for link in re.findall(r'fetchpriority="low" href="([^"]+)"', page)}
    apart = {link.split("/", 3)[3] for link in re.findall(r'rel="prefetch" href="([^"]+)"', page)}
    later = set(names.split())
    assert "voice/call.js" in soon
    assert len(first | soon | apart | later) == len(first) + len(soon) + len(apart) + len(later)
    for name in {"voice/main.js"} | first | soon | apart | later:
        source = files[name].decode()
        loaded = re.findall(r'import\("(\./[^"]+)"\)|new URL\("(\.[^"]+\.js)", import', source)
        for target in (*map("".join, loaded), *re.findall(r'from "(\.[^"]+)";', source)):
            assert posixpath.normpath(f"{name}/../{target}") in first | soon | apart | later, (name, target)
    assert {f"voice/audio/{name}-worklet.js" for name in ("capture", "playback")} <= apart


@pytest.mark.parametrize("path", PAGES)
async def test_the_page_may_load_and_reach_only_this_server(path):
    """No inline code or styles, nothing from other origins, isolated from other pages."""
    async with small_server() as served:
        page = await fetch(served, path)
        script = await fetch(
            served, next(f for f in LINK.findall(page.body.decode()) if f.endswith("main.js"))
        )
    for answer in (page, script):  # a worker goes by the policy of its own script
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        assert "'unsafe-eval'" not in policy
        assert re.search(r"https?:|\*", policy) is None
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
    assert b"<style" not in page.body
    assert b" style=" not in page.body
    assert re.search(rb"<script(?![^>]*src=)", page.body) is None
    assert re.search(rb'(?:href|src)="(?!\./)', page.body) is None


@pytest.mark.parametrize(
    "path",
    [
        "/static/000000000000/site.css",
        "/static/VERSION/../app.py",
        "/static/VERSION/no.js",
        "/vendor/no/no.js",
    ],
)
async def test_missing_files_are_404(path):
    async with small_server() as served:
        answer = await fetch(served, path.replace("VERSION", read_assets().version))
    assert answer.status == 404


def test_the_version_depends_on_every_byte_and_name(tmp_path):
    file = tmp_path / "a.js"
    file.write_text("1")
    versions = [read_assets(tmp_path).version]
    file.write_text("2")
    versions.append(read_assets(tmp_path).version)
    file.rename(tmp_path / "b.js")
    versions.append(read_assets(tmp_path).version)
    assert len(set(versions)) == 3


def test_no_file_of_the_pages_names_another_origin():
    """No file contains a URL of another origin."""
    for name, content in read_assets().files.items():
        if not name.endswith(".svg"):
            assert re.search(rb"(?:https?|wss?)://(?!localhost)", content) is None, name


def packed(tmp_path: Path, files: dict[str, bytes]) -> Path:
    archive = tmp_path / "package.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive


def locked(archive: Path, *files: str) -> Package:
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    return Package("@some/package", "1.0", "MIT", f"sha512-{digest}", files)


def test_only_used_files_are_extracted(tmp_path):
    archive = packed(tmp_path, {"dist/a.js": b"a", "dist/b.js": b"b"})
    extract(locked(archive, "dist/a.js"), archive, tmp_path / "vendored")
    extracted = [
        p.relative_to(tmp_path / "vendored").as_posix() for p in (tmp_path / "vendored").rglob("*.js")
    ]
    assert extracted == ["package-1.0/a.js"]


def test_an_archive_that_differs_from_the_lock_file_is_refused(tmp_path):
    archive = packed(tmp_path, {"dist/a.js": b"a"})
    package = locked(archive, "dist/a.js")
    packed(tmp_path, {"dist/a.js": b"A"})
    with pytest.raises(VendorError, match="does not match"):
        extract(package, archive, tmp_path / "vendored")
    assert not (tmp_path / "vendored").exists()


def test_an_archive_that_lacks_a_locked_file_is_refused(tmp_path):
    archive = packed(tmp_path, {"dist/a.js": b"a"})
    with pytest.raises(VendorError, match="does not contain dist/b"):
        extract(locked(archive, "dist/a.js", "dist/b.js"), archive, tmp_path / "vendored")
    assert list((tmp_path / "vendored").iterdir()) == []


def test_every_locked_package_has_a_licence_and_a_digest():
    packages = read_lock()
    assert packages
    for package in packages:
        assert package.license
        assert package.integrity.startswith("sha512-")
        assert package.files
