"""An output is whole or not there, and what was there before stays until then."""

import ast
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import OutputError
from pipeline.system.outputs import OutputFile, OutputFolder, write_whole

ROOT = Path(__file__).parents[2]


def test_an_earlier_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """Without a commit it is as it was, with nothing beside it."""
    path = tmp_path / "a.txt"
    path.write_text("earlier")
    with OutputFile(path) as output:
        output.path.write_text("half")
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_whole_file_replaces_an_earlier_one_with_its_mode(tmp_path: Path) -> None:
    """A link still points to it."""
    path, link = tmp_path / "a.txt", tmp_path / "link"
    path.write_text("earlier")
    path.chmod(0o640)
    link.symlink_to(path)
    write_whole(link, b"new")
    assert (path.read_text(), path.stat().st_mode & 0o777, link.is_symlink()) == ("new", 0o640, True)


@pytest.mark.parametrize("alias", ["a.txt", "link", "hard"])
def test_an_input_is_never_written_over(tmp_path: Path, alias: str) -> None:
    """Under whatever name it is given."""
    path = tmp_path / "a.txt"
    path.write_text("input")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "hard").hardlink_to(path)
    with pytest.raises(OutputError, match="is also the input"):
        write_whole(tmp_path / alias, b"new", inputs=[None, path])
    assert path.read_text() == "input"


def test_a_pipe_is_written_to_directly(tmp_path: Path) -> None:
    """It stays a pipe."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(path, b"content")
        assert os.read(reading, 100) == b"content"
    finally:
        os.close(reading)
    assert path.is_fifo()


@pytest.mark.parametrize("name", ["none/a", "folder", "a\0b", "circle", "x" * 300])
def test_a_path_that_cannot_be_written_is_a_sentence(tmp_path: Path, name: str) -> None:
    """Before anything else is done."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(OutputError):
        OutputFile(tmp_path / name)


def test_a_folder_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    """One that holds something is never touched; an empty one is used."""
    with OutputFolder(tmp_path / "a") as folder:
        (folder.path / "file").write_text("half")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with OutputFolder(tmp_path / "a") as folder:
        (folder.path / "file").write_text("whole")
        folder.commit()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "file"]
    with pytest.raises(OutputError, match="is not empty"):
        OutputFolder(tmp_path / "a")


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def test_a_file_that_does_not_fit_leaves_the_earlier_one(tmp_path: Path) -> None:
    """As on a full disk: one sentence, exit code 2, and the page is as it was."""
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs/reference/configuration.md").read_text())
    before = page.read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "config-reference", "--write", str(page)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=limit_file_size,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"{page}: cannot be written")
    assert len(done.stderr.splitlines()) == 1
    assert page.read_bytes() == before
    assert list(tmp_path.iterdir()) == [page]


WRITING = {
    "copyfile",
    "copyfileobj",
    "np.save",
    "save_file",
    "savez",
    "torch.save",
    "write_bytes",
    "write_text",
}
WHOLE = {"OutputFile", "OutputFolder", "write_whole", "replace", "rename"}  # in place only when complete
# Functions that write elsewhere, and why that leaves nothing incomplete in the place of something else.
DIRECT = {
    ("actors/sessions/recorder.py", "_write_one"): "a new folder; flushed as it goes",
    ("pipeline/cli/weights.py", "_write_quantized"): "in the caller's OutputFolder",
    ("pipeline/log.py", "write_text"): "the log",
    ("pipeline/hub.py", "head"): "a temporary folder",
    ("pipeline/loadtest/processor_share.py", "_cgroup"): "files of the kernel",
    ("pipeline/models/bundle.py", "_weights"): "a lock; the weights are written by `writer`",
    ("pipeline/models/checkpoint/voice_store.py", "_voice_files"): "temporary copies",
    ("pipeline/models/checkpoint/voices.py", "write_voice"): "the voice store renames it",
    ("pipeline/server.py", "_show_invitation"): "the log",
    ("pipeline/train/runs/journal.py", "log"): "one line more",
    ("web/security/listen.py", "_pipe"): "a pipe",
}


def writers() -> Iterator[tuple[str, str]]:
    """(file, function) of all that write a file without moving it into place."""
    for folder in ("actors", "web", "pipeline"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for function in ast.walk(ast.parse(path.read_text())):
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                    words = set(re.findall(r"[\w.]+", ast.unparse(function)))
                    words |= {word.rpartition(".")[2] for word in words}
                    writes = words & WRITING or any(map(opens_for_writing, ast.walk(function)))
                    if writes and not words & WHOLE:
                        yield path.relative_to(ROOT).as_posix(), function.name


def opens_for_writing(node: ast.AST) -> bool:
    """`open` with one of the modes w, a, x."""
    if not isinstance(node, ast.Call) or "open" not in ast.unparse(node.func).rpartition(".")[2]:
        return False
    modes = [each.value for each in node.args if isinstance(each, ast.Constant)]
    return any(isinstance(mode, str) and re.fullmatch("[wax]b?[+]?", mode) for mode in modes)


def test_no_other_file_is_written_in_place() -> None:
    """A new writer uses `pipeline.system.outputs`, or is entered above with the reason why not."""
    assert set(writers()) == set(DIRECT)
