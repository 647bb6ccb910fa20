"""Parses the Dockerfile into stages, and lists the files of the build context."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "configs/docker/Dockerfile"


def recipes() -> tuple[dict[str, list[tuple[str, str]]], dict[str, str]]:
    """The instructions of each stage, FROM included, and the ARGs before the first stage."""
    parser = DockerfileParser(path=str(DOCKERFILE.parent), cache_content=True)
    found: dict[str, list[tuple[str, str]]] = {}
    arguments: dict[str, str] = {}
    steps: list[tuple[str, str]] = []
    for entry in parser.structure:
        instruction, value = entry["instruction"], entry["value"]
        if instruction == "FROM":
            steps = found.setdefault(value.split(" AS ")[1], [])
        if instruction == "ARG":
            name, _, default = value.partition("=")
            arguments[name] = default
        elif instruction != "COMMENT":
            steps.append((instruction, value))
    return found, arguments


def named_in(steps: list[tuple[str, str]]) -> Iterator[str]:
    """The stages and images that these instructions refer to."""
    yield steps[0][1].split()[0]
    for _, value in steps:
        yield from re.findall(r"from=([\w-]+)", value)


def context() -> Iterator[str]:
    """The files of the build context, filtered by .dockerignore; the last matching pattern decides."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    compiled = [(_pattern(line.removeprefix("!")), line.startswith("!")) for line in patterns]
    for folder, names, files in os.walk(ROOT):
        here = Path(folder).relative_to(ROOT)
        names[:] = [name for name in names if name not in (".git", ".venv", ".peers")]
        for file in files:
            path = str(here / file)
            is_included = True
            for pattern, included in compiled:
                if pattern.match(path):
                    is_included = included
            if is_included:
                yield path


def _pattern(line: str) -> re.Pattern[str]:
    """Compile a pattern of .dockerignore; it also matches everything below a folder."""
    parts = {"**/": "(?:.*/)?", "*": "[^/]*"}
    regex = "".join(parts.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*)", line))
    return re.compile(f"{regex}(?:/|$)")


def copy_context(source: str, target: Path, *, into: bool) -> None:
    """COPY a file, a folder or `.` within .dockerignore, `into` the folder `target` or as `target`."""
    prefix = "" if source == "." else source
    for path in context():
        if prefix not in ("", path) and not path.startswith(f"{prefix}/"):
            continue
        below = (
            path if not prefix else (Path(path).name if path == prefix else path.removeprefix(f"{prefix}/"))
        )
        place = target / below if into or path != prefix else target
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, place)
