"""The container files are consistent and secure, and the services of compose.yaml work together."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from contextlib import ExitStack
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.install.image_recipe import DOCKERFILE, context, recipes
from support.install.own_network import Network, missing, own_network
from support.install.users_systemd import until

from pipeline.config import Settings, make_config
from pipeline.kernels import library

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "configs/docker"
COMPOSE = DOCKER / "compose.yaml"
TOKEN = "a-token-of-thirty-two-characters"
NAMES = ("compose.yaml", "compose.cuda.yaml", "compose.lan.yaml")


def read(name: str, **variables: str) -> dict[str, Any]:
    """Parse a compose file with its variables replaced."""
    return yaml.safe_load(interpolate((DOCKER / name).read_text(), variables))


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace `${A}`, `${A:-default}`, `${A:?error}` and `${A:+alternative}`, inner ones first."""

    def value(match: re.Match[str]) -> str:
        name, how, other = match[1], match[2], match[3] or ""
        found = variables.get(name, "")
        if how == ":+":
            return other if found else ""
        return found or (other if how == ":-" else "")

    inner = re.compile(r"\$\{(\w+)(?:(:[-?+])([^${}]*))?\}")
    while inner.search(text):
        text = inner.sub(value, text)
    return text


def services(name: str = "compose.yaml") -> Mapping[str, Mapping[str, Any]]:
    return read(name)["services"]


def replicas() -> dict[str, list[str]]:
    """The command of each replica, split as by a shell."""
    return {
        name: shlex.split(each["command"]) for name, each in services().items() if name.startswith("replica")
    }


def settings_of(command: list[str]) -> Settings:
    """The settings in a replica's command."""
    overrides = [value for option, value in pairwise(command) if option == "--set"]
    return make_config({}, Path("config.json"), overrides, "replica").settings


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage."""
    return recipes()[0]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_does_not_run_as_root(target: str) -> None:
    """Its user is numeric, so that an orchestrator can verify it without looking into the image."""
    assert stages()[target][-1] == ("USER", "10001:10001")


def test_signals_reach_the_server() -> None:
    """Command and health check are lists, so there is no shell in between."""
    values = dict(stages()["server"])
    for instruction in ("ENTRYPOINT", "CMD"):
        assert json.loads(values[instruction])
    assert json.loads(values["HEALTHCHECK"].partition("CMD ")[2])[0] == "packet-voice"


def test_every_installation_uses_the_constraints() -> None:
    """An image contains the versions that the tests passed with."""
    installs = [
        value
        for steps in stages().values()
        for name, value in steps
        if name == "RUN" and "install -" in value
    ]
    packages = [value for value in installs if "pip" in value and "--no-deps" not in value]
    assert len(packages) == 2
    assert all("-c /wanted/constraints.txt" in value for value in packages)


def test_the_dependency_list_is_that_of_the_project(tmp_path: Path) -> None:
    """The most expensive layer depends on this list only."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (step,) = (value for name, value in stages()["wanted"] if name == "RUN")
    inside = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", step], cwd=tmp_path, env=inside, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in ("cpu", "cuda"):
        wanted = [*project["dependencies"], *project["optional-dependencies"][extra]]
        assert (tmp_path / f"{extra}.txt").read_text().splitlines() == wanted


def test_every_kept_mkl_library_exists() -> None:
    """If a library were renamed, the image would delete it and the server use a slow BLAS."""
    libraries = [path.name for path in Path(sys.prefix, "lib").glob("lib*.so*")]
    if not any(name.startswith("libmkl_rt") for name in libraries):
        pytest.skip("MKL is not installed here (extra cpu)")
    (step,) = (value for name, value in stages()["cpu-dependencies"] if name == "RUN")
    kept = re.findall(r"! -name '([^']+)'", step)
    assert kept
    for pattern in kept:
        assert any(fnmatch(name, pattern) for name in libraries), pattern


def test_kernels_are_compiled_where_the_compiler_stays_behind() -> None:
    """The image gets the library, where the server looks for it, and no compiler."""
    compiling = [name for name, steps in stages().items() if any("g++" in value for _, value in steps)]
    assert compiling == ["kernels"]
    assert stages()["kernels"][-1][1].endswith("-m pipeline.kernels.build --require")
    base = "cpu"
    while base in stages():
        assert base != "kernels"
        base = stages()[base][0][1].split()[0]
    copied = [value.split() for name, value in stages()["cpu"] if name == "COPY" and "from=kernels" in value]
    assert copied == [["--from=kernels", *2 * ["/opt/packet-voice/lib/packet-voice"]]]
    assert "kernels" not in "".join(value for name, value in stages()["cuda"])


def test_the_package_contains_the_sources_of_the_kernels() -> None:
    """The library's name is their digest: a server that lacks one of them would look for another library."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "pipeline"
    ]
    packaged = {path for pattern in data for path in (ROOT / "pipeline").glob(pattern)}
    sources = {path for path in library.NATIVE.rglob("*") if path.suffix in {".h", ".cpp"}}
    assert sources
    assert sources <= packaged


def test_a_copied_library_needs_no_compiler(tmp_path: Path) -> None:
    """As in the image: built in one environment, and used in another from which nothing can be compiled."""
    built = library.find()
    if built is None:
        pytest.skip("the kernels have not been built")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "image"], check=True)
    folder = tmp_path / "image/lib/packet-voice"
    folder.mkdir()
    for path in (built, library.digest_path(built)):
        shutil.copy(path, folder)
    code = (
        "from pipeline import backend; from pipeline.kernels import library;"
        "print(library.find(), getattr(backend.kernels(), 'reason', 'used'))"
    )
    environment = {
        "PATH": str(tmp_path / "image/bin"),
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
    }
    done = subprocess.run(
        [tmp_path / "image/bin/python", "-c", code],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(folder / built.name), "used"]


def test_the_build_context_contains_only_the_project() -> None:
    """No tests, third-party files or secrets, but everything that setuptools and the server need."""
    sent = set(context())
    tops = {Path(path).parts[0] for path in sent}
    assert tops == {
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "constraints.txt",
        "pipeline",
        "actors",
        "web",
        "configs",
    }
    assert {path for path in sent if path.startswith("configs/")} == {
        str(path.relative_to(ROOT)) for path in (ROOT / "configs/tiny").iterdir()
    }
    assert not any(
        "__pycache__" in path or path.startswith(("web/vendored", "pipeline/train")) for path in sent
    )
    tracked = subprocess.run(
        ["git", "ls-files", "pipeline", "actors", "web"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if tracked.returncode == 0:
        assert {path for path in tracked.stdout.split() if not path.startswith("pipeline/train")} - sent == {
            path for path in tracked.stdout.split() if not (ROOT / path).exists()
        }


def test_image_names_have_a_version_and_no_registry_host() -> None:
    """The container engine is configured with the registry to use."""
    named = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    named += [each["image"] for each in services().values()]
    for image in named:
        assert "." not in image.partition("/")[0].partition(":")[0], image
        assert re.search(r":[\w.-]+$", image), image
        assert not image.endswith(":latest")


def test_images_have_a_digest_or_the_reason_why_not_is_written() -> None:
    """The reason names what pins one, which the Dockerfile has."""
    recipe = DOCKERFILE.read_text()
    named = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", recipe, re.MULTILINE)
    named += [each["image"] for each in services().values()]
    reason = (ROOT / "docs/explanation/dependencies.md").read_text()
    assert all("@sha256:" in image for image in named) or "by tag and not by digest, so that" in reason
    assert "`--build-arg PYTHON_IMAGE=python@sha256:" in reason


@pytest.mark.parametrize("name", list(services()))
def test_every_service_is_hardened(name: str) -> None:
    """Read-only root, no capabilities, no new privileges, limits on memory and processes."""
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["healthcheck"]
    environment = json.dumps(service.get("environment", {}))
    assert "secret" not in environment.replace("/run/secrets/", "")


def test_only_one_service_publishes_ports_and_only_on_loopback() -> None:
    """All other services share its network."""
    published = {name: each["ports"] for name, each in services().items() if "ports" in each}
    assert list(published) == ["pod"]
    assert all(port.startswith("127.0.0.1:") for port in published["pod"])
    assert {each["network_mode"] for name, each in services().items() if name != "pod"} == {"service:pod"}


def test_the_replicas_match_the_balancer_and_prometheus() -> None:
    """Names, ports and agent ports agree; the replicas listen on loopback and require a token."""
    balancer = services()["balancer"]["environment"]
    prometheus = yaml.safe_load((ROOT / "configs/prometheus/prometheus.yaml").read_text())
    watched = {
        target["labels"]["instance"]: target["targets"][0]
        for job in prometheus["scrape_configs"]
        for target in job["static_configs"]
    }
    for number, (name, command) in enumerate(replicas().items(), start=1):
        server = settings_of(command).server
        assert server.replica == f"r{number}"
        assert balancer[f"REPLICA_{number}"] == f"{server.host}:{server.port} agent-port {server.agent_port}"
        assert watched[f"r{number}"] == f"{server.host}:{server.port}"
        assert services()[name]["healthcheck"]["test"][-1] == f"http://{server.host}:{server.port}"
        assert server.token_file == "/run/secrets/token"
        assert services()[name]["secrets"] == ["token"]
        assert server.host == "127.0.0.1"
    known = (ROOT / "configs/haproxy.cfg").read_text()
    assert all(f"${{{name}" in known for name in balancer)


def test_the_model_variable_reaches_every_replica() -> None:
    """MODEL is the value of --config."""
    for name, each in read("compose.yaml", MODEL="hf://org/repo")["services"].items():
        if name.startswith("replica"):
            command = shlex.split(each["command"])
            assert command[command.index("--config") + 1] == "hf://org/repo"
    assert all("--config" not in command for command in replicas().values())


@pytest.mark.parametrize("name", NAMES)
def test_every_mounted_file_exists(name: str) -> None:
    """Every secret and volume of a service is declared."""
    compose, base = read(name), read("compose.yaml")
    declared = {kind: {**base.get(kind, {}), **compose.get(kind, {})} for kind in ("volumes", "secrets")}
    for service in compose["services"].values():
        assert set(service.get("secrets", [])) <= set(declared["secrets"])
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source in declared["volumes"]


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.skipif(
    shutil.which("haproxy") is None and "CI" not in os.environ,
    reason="no HAProxy (Debian: apt-get install haproxy)",
)
def test_the_services_of_compose_work_together(tmp_path: Path) -> None:
    """With the commands of compose.yaml in one network: speech passes the load balancer only with the token,
    each replica serves metrics, and SIGTERM ends the replicas with exit code 0."""
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    balancer = services()["balancer"]
    with own_network() as network, ExitStack() as stack:
        servers = {}
        for name, command in replicas().items():
            environment = {"HOME": str(tmp_path / name), "XDG_CACHE_HOME": str(tmp_path / "cache")}
            arguments = [part.replace("/run/secrets/token", str(token)) for part in command]
            servers[name] = stack.enter_context(
                network.running([sys.executable, "-m", "pipeline", *arguments], environment)
            )
            _, _, *check = services()[name]["healthcheck"]["test"]  # CMD packet-voice
            until(lambda check=check: network.run(sys.executable, "-m", "pipeline", *check).returncode == 0)
        proxy = ["haproxy", "-db", "-f", str(ROOT / "configs/haproxy.cfg")]
        stack.enter_context(network.running(proxy, balancer["environment"]))
        health = (sys.executable, "-m", "pipeline", "health", "--url", "http://127.0.0.1:8788")
        until(lambda: network.run(*health).returncode == 0)
        assert talk(network).returncode != 0
        answer = talk(network, "--token-file", str(token))
        assert answer.returncode == 0, answer.stderr
        for port in (8791, 8792):
            script = f"import urllib.request as u; r = u.Request('http://127.0.0.1:{port}/metrics'); "
            script += f"r.add_header('Authorization', 'Bearer {TOKEN}'); print(u.urlopen(r).read().decode())"
            assert "packet_voice_ready 1.0" in network.run(sys.executable, "-c", script).stdout
        for server in servers.values():
            server.terminate()
            assert server.wait(30) == 0


def talk(network: Network, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Send half a second of speech through the load balancer."""
    speech = str(ROOT / "tests/data/speech.wav")
    url = "ws://127.0.0.1:8788/ws"
    return network.run(sys.executable, "-m", "pipeline", "talk", "--url", url, "--in", speech, *arguments)
