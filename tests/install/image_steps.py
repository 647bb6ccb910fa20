"""Build and test the image of configs/docker/Dockerfile without a container engine (`make image-steps`).

    PYTHONPATH=tests python tests/install/image_steps.py [--target cpu] [--work FOLDER]

Follows the Dockerfile as a builder would: each stage is a layer of files over its base, COPY respects
.dockerignore, RUN executes in the stage with its mounts. Then the image's command runs as the image's user,
with a read-only root, a volume and no network, until the health check succeeds; it has to answer speech and
exit with 0 after SIGTERM. Needs root, mmdebstrap and the package registries. Debian bookworm with Debian's
Python replaces the image python:*-slim-bookworm. The base and the caches in FOLDER are reused.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from support.install.image_recipe import ROOT, copy_context, named_in, recipes
from support.install.image_roots import Container, Mounted, Stage, StepError, do

SPEECH = ROOT / "tests/data/speech.wav"
DEBIAN = "ca-certificates,python3,python3-venv,python3-pip,libpython3-dev"  # the image has the headers, too
# Access to the registries is configured as on this machine.
OWN_FILES = ("/etc/resolv.conf", "/etc/ssl/certs", "/etc/pip.conf", "/etc/apt")
OWN_VARIABLES = re.compile(r"(?:PIP|SSL|NODE|NPM)_\w+|\w+_(?:proxy|PROXY)|npm_config_\w+")
BARE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Builder:
    """Builds each stage once, in the folder `work`."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.stages: dict[str, Stage] = {}
        self._recipes, self._arguments = recipes()
        self._layers = 0

    def build(self, target: str) -> Stage:
        """Build the stage named `target` and all stages it depends on."""
        wanted, queue = set(), [target]
        while queue:
            name = queue.pop()
            if name in self._recipes and name not in wanted:
                wanted.add(name)
                queue += named_in(self._recipes[name])
        for name, steps in self._recipes.items():
            if name in wanted:
                self._build(name, steps)
        return self.stages[target]

    def _build(self, name: str, steps: list[tuple[str, str]]) -> None:
        base = self._expand(steps[0][1]).split()[0]
        if base in self.stages:
            stage = replace(self.stages[base], name=name, variables=dict(self.stages[base].variables))
        else:
            stage = Stage(name, [self._base(base)], {"PATH": BARE_PATH})
        self.stages[name] = stage
        stage.layers = [self._layer(name), *stage.layers]
        for instruction, value in steps[1:]:
            print(f"{name}: {instruction} {' '.join(value.split())[:100]}", flush=True)
            self._do(stage, instruction, value)

    def _do(self, stage: Stage, instruction: str, value: str) -> None:
        match instruction:
            case "RUN":
                self._run(stage, value)
            case "COPY":
                self._copy(stage, value)
            case "ENV":
                for pair in shlex.split(value):
                    name, _, text = pair.partition("=")
                    stage.variables[name] = re.sub(r"\$(\w+)", lambda m: stage.variables.get(m[1], ""), text)
            case "WORKDIR":
                stage.folder = value
                (stage.layers[0] / value.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case _:
                _set_metadata(stage, instruction, value)

    def _run(self, stage: Stage, value: str) -> None:
        mounts, command = [], value
        while command.startswith("--mount="):
            mount, command = command.split(maxsplit=1)
            mounts.append(
                dict(pair.partition("=")[::2] for pair in mount.removeprefix("--mount=").split(","))
            )
        with_registries = {k: v for k, v in os.environ.items() if OWN_VARIABLES.fullmatch(k)}
        with Mounted(self.work, stage) as root:
            for mount in mounts:
                root.bind(self._mount_source(mount), mount["target"], writable=mount["type"] == "cache")
            for own in OWN_FILES:
                root.bind(Path(own), own, writable=False)
            root.run(["/bin/sh", "-c", command], {**with_registries, **stage.variables, "HOME": "/root"})

    def _mount_source(self, mount: dict[str, str]) -> Path:
        if mount["type"] == "cache":
            folder = self.work / "caches" / mount["target"].strip("/").replace("/", "-")
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        return self._find(self.stages[mount["from"]], mount["source"])

    def _copy(self, stage: Stage, value: str) -> None:
        parts = shlex.split(value)
        source_stage = None
        while parts[0].startswith("--"):
            option, _, text = parts.pop(0).partition("=")
            if option != "--from":
                raise StepError(f"COPY {option} is not supported by this script")
            source_stage = self.stages[text]
        *sources, last = parts
        target = stage.layers[0] / str(Path(stage.folder, last)).lstrip("/")
        for source in sources:
            if source_stage is None:
                copy_context(source, target, into=last.endswith("/") or len(sources) > 1)
            else:
                self._copy_across(source_stage, source, target, into=last.endswith("/"))

    def _copy_across(self, stage: Stage, source: str, target: Path, *, into: bool) -> None:
        with Mounted(self.work, stage) as root:
            found = root.folder / source.lstrip("/")
            place = target / found.name if into else target
            place.parent.mkdir(parents=True, exist_ok=True)
            do("cp", "--archive", "--no-target-directory", str(found), str(place))

    def _find(self, stage: Stage, path: str) -> Path:
        for layer in stage.layers:
            if (layer / path.lstrip("/")).exists():
                return layer / path.lstrip("/")
        raise StepError(f"{stage.name} has no {path}")

    def _expand(self, text: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda m: self._arguments[m[1]], text)

    def _layer(self, name: str) -> Path:
        self._layers += 1
        layer = self.work / "layers" / f"{self._layers}-{name}"
        layer.mkdir(parents=True)
        return layer

    def _base(self, image: str) -> Path:
        if not re.fullmatch(r"python:3\.\d+-slim-bookworm", image):
            raise StepError(f"there is no replacement for the image {image}")
        base = self.work / "base"
        if not (base / "usr/local/bin/python").is_symlink():
            sources = Path("/etc/apt/sources.list.d/debian.sources")
            do("mmdebstrap", "--variant=minbase", f"--include={DEBIAN}", "bookworm", str(base), str(sources))
            (base / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        return base


def _set_metadata(stage: Stage, instruction: str, value: str) -> None:
    """Apply an instruction that only matters when the image runs."""
    match instruction:
        case "USER":
            stage.user = value
        case "ENTRYPOINT":
            stage.entrypoint = json.loads(value)
        case "CMD":
            stage.command = json.loads(value)
        case "HEALTHCHECK":
            stage.health = json.loads(value[value.index("CMD") + 3 :])
        case "VOLUME":
            stage.volumes = [*stage.volumes, value]
        case "EXPOSE":
            pass
        case _:
            raise StepError(f"{instruction} is not supported by this script")


def test_image(work: Path, stage: Stage) -> None:
    """Run the image and check that it answers speech."""
    volume = work / "volume"
    shutil.rmtree(volume, ignore_errors=True)
    data = stage.volumes[0].lstrip("/")
    do(
        "cp",
        "--archive",
        str(next(layer / data for layer in stage.layers if (layer / data).exists())),
        str(volume),
    )
    with Mounted(work, stage, writable=False) as root:
        root.bind(volume, stage.volumes[0], writable=True)
        root.memory("/tmp")
        shutil.copy(SPEECH, root.folder / "tmp/speech.wav")
        container = Container(root, stage)
        try:
            print(f"healthy after {container.wait_until_healthy(stage.health):.1f} s", flush=True)
            lan = "/data/packet-voice/lan"
            answer = container.run(
                *stage.entrypoint, "talk", "--url", "wss://127.0.0.1:8788/ws", "--token-file", f"{lan}/token",
                "--ca", f"{lan}/authority.crt", "--in", "/tmp/speech.wav",
            )  # fmt: skip
            print(answer.stdout, answer.stderr, flush=True)
            if answer.returncode:
                raise StepError("the server did not answer speech")
            blas = "from pipeline import backend; print(backend.prepare().blas.name)"
            if stage.name == "cpu" and (used := container.run("python", "-c", blas).stdout.strip()) != "mkl":
                raise StepError(f"the BLAS is {used}, not MKL")
            kernels = "from pipeline import backend; print(backend.kernels().instruction_set)"
            if stage.name == "cpu" and (failed := container.run("python", "-c", kernels)).returncode:
                raise StepError(f"the server has no native kernels: {failed.stderr.strip()[-200:]}")
            if container.run("sh", "-c", "command -v c++ || command -v g++ || command -v cc").returncode == 0:
                raise StepError("the image contains a compiler")
            if container.run("touch", "/opt/packet-voice/new").returncode == 0:
                raise StepError("the root file system is writable")
            exit_code = container.stop()
            if exit_code:
                raise StepError(f"the exit code after SIGTERM is {exit_code}")
        finally:
            container.kill()
    print("exit code 0 after SIGTERM")


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="cpu", help="stage to build (default cpu)")
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "build/image",
        help="folder for layers and caches (default build/image)",
    )
    options = parser.parse_args()
    if "IN_A_NAMESPACE" not in os.environ:  # all mounts disappear with the process
        inside = ["unshare", "--mount", "--propagation=private", sys.executable, *sys.argv]
        return subprocess.run(inside, env={**os.environ, "IN_A_NAMESPACE": "1"}, check=False).returncode
    work = options.work.absolute()
    shutil.rmtree(work / "layers", ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    try:
        stage = Builder(work).build(options.target)
        for layer in stage.layers[:-1]:
            used = subprocess.run(["du", "-sm", layer], capture_output=True, text=True, check=True).stdout
            print(f"{layer.name}: {used.split()[0]} MiB")
        test_image(work, stage)
    except StepError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
