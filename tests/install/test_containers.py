"""The container files hold to their own laws; and what compose.yaml starts works together, started here."""

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

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "configs/docker"
COMPOSE = DOCKER / "compose.yaml"
TOKEN = "a-token-of-thirty-two-characters"
NAMES = ("compose.yaml", "compose.cuda.yaml", "compose.lan.yaml")


def read(name: str, **variables: str) -> dict[str, Any]:
    """A compose file with its variables put in."""
    return yaml.safe_load(interpolate((DOCKER / name).read_text(), variables))


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """`${A}`, `${A:-else}`, `${A:?error}` and `${A:+instead}`, the inner ones first."""

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
    """The command of each, as a shell would split it."""
    return {
        name: shlex.split(each["command"]) for name, each in services().items() if name.startswith("replica")
    }


def settings_of(command: list[str]) -> Settings:
    """What a replica's command says of its server."""
    overrides = [value for option, value in pairwise(command) if option == "--set"]
    return make_config({}, Path("config.json"), overrides, "replica").settings


def stages() -> dict[str, list[tuple[str, str]]]:
    """Each stage's steps."""
    return recipes()[0]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_runs_as_nobody_in_particular(target: str) -> None:
    """Its user is a number that is not root's, so that an orchestrator can tell without asking the image."""
    assert stages()[target][-1] == ("USER", "10001:10001")


def test_signals_reach_the_server_itself() -> None:
    """Command and health check are lists: no shell stands between."""
    values = dict(stages()["server"])
    for instruction in ("ENTRYPOINT", "CMD"):
        assert json.loads(values[instruction])
    assert json.loads(values["HEALTHCHECK"].partition("CMD ")[2])[0] == "packet-voice"


def test_every_package_is_held_to_the_constraints() -> None:
    """What an image holds is what the tests passed with."""
    installs = [
        value
        for steps in stages().values()
        for name, value in steps
        if name == "RUN" and "install -" in value
    ]
    packages = [value for value in installs if "pip" in value and "--no-deps" not in value]
    assert len(packages) == 2
    assert all("-c /wanted/constraints.txt" in value for value in packages)


def test_the_dependencies_are_those_of_the_project(tmp_path: Path) -> None:
    """The layer that takes longest is made from their list alone."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (step,) = (value for name, value in stages()["wanted"] if name == "RUN")
    inside = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", step], cwd=tmp_path, env=inside, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in ("cpu", "cuda"):
        wanted = [*project["dependencies"], *project["optional-dependencies"][extra]]
        assert (tmp_path / f"{extra}.txt").read_text().splitlines() == wanted


def test_what_is_kept_of_mkl_is_there() -> None:
    """A library that was renamed would be removed, and the server fall back to a slow one."""
    libraries = [path.name for path in Path(sys.prefix, "lib").glob("lib*.so*")]
    if not any(name.startswith("libmkl_rt") for name in libraries):
        pytest.skip("MKL is not installed here (extra cpu)")
    (step,) = (value for name, value in stages()["cpu-dependencies"] if name == "RUN")
    kept = re.findall(r"! -name '([^']+)'", step)
    assert kept
    for pattern in kept:
        assert any(fnmatch(name, pattern) for name in libraries), pattern


def test_a_builder_is_sent_the_project_and_nothing_else() -> None:
    """No test, no third-party file, no secret; and all that setuptools and the server need."""
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


def test_no_name_of_an_image_has_a_host() -> None:
    """Images come from wherever the engine is told to take them from, in a version that is named."""
    named = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    named += [each["image"] for each in services().values()]
    for image in named:
        assert "." not in image.partition("/")[0].partition(":")[0], image
        assert re.search(r":[\w.-]+$", image), image
        assert not image.endswith(":latest")


@pytest.mark.parametrize("name", list(services()))
def test_every_service_is_locked_in(name: str) -> None:
    """Read-only root, no capability, no new privilege, a bound on memory and processes."""
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["healthcheck"]
    told = json.dumps(service.get("environment", {}))
    assert "secret" not in told.replace("/run/secrets/", "")


def test_only_one_service_is_reached_from_outside_and_only_from_this_machine() -> None:
    """All share its network; what it publishes is bound to loopback."""
    published = {name: each["ports"] for name, each in services().items() if "ports" in each}
    assert list(published) == ["pod"]
    assert all(port.startswith("127.0.0.1:") for port in published["pod"])
    assert {each["network_mode"] for name, each in services().items() if name != "pod"} == {"service:pod"}


def test_the_replicas_are_what_the_balancer_and_prometheus_expect() -> None:
    """Names, ports and agent ports agree; without TLS they listen on loopback alone, with a token."""
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


def test_a_model_is_named_in_one_place() -> None:
    """MODEL reaches every replica's command."""
    for name, each in read("compose.yaml", MODEL="hf://org/repo")["services"].items():
        if name.startswith("replica"):
            command = shlex.split(each["command"])
            assert command[command.index("--config") + 1] == "hf://org/repo"
    assert all("--config" not in command for command in replicas().values())


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_is_mounted_exists(name: str) -> None:
    """And every secret and every volume that a service names is declared."""
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
def test_what_compose_starts_works_together(tmp_path: Path) -> None:
    """The commands and variables of compose.yaml, in one network: speech goes through the balancer with the
    token alone, each replica says how it is to who watches, and SIGTERM ends the replicas with 0."""
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    balancer = services()["balancer"]
    with own_network() as network, ExitStack() as stack:
        servers = {}
        for name, command in replicas().items():
            place = {"HOME": str(tmp_path / name), "XDG_CACHE_HOME": str(tmp_path / "cache")}
            spoken = [part.replace("/run/secrets/token", str(token)) for part in command]
            servers[name] = stack.enter_context(
                network.running([sys.executable, "-m", "pipeline", *spoken], place)
            )
            _, _, *check = services()[name]["healthcheck"]["test"]  # CMD packet-voice
            until(lambda check=check: network.run(sys.executable, "-m", "pipeline", *check).returncode == 0)
        proxy = ["haproxy", "-db", "-f", str(ROOT / "configs/haproxy.cfg")]
        stack.enter_context(network.running(proxy, balancer["environment"]))
        health = (sys.executable, "-m", "pipeline", "health", "--url", "http://127.0.0.1:8788")
        until(lambda: network.run(*health).returncode == 0)
        assert talk(network).returncode != 0
        spoken = talk(network, "--token-file", str(token))
        assert spoken.returncode == 0, spoken.stderr
        for port in (8791, 8792):
            ask = f"import urllib.request as u; r = u.Request('http://127.0.0.1:{port}/metrics'); "
            ask += f"r.add_header('Authorization', 'Bearer {TOKEN}'); print(u.urlopen(r).read().decode())"
            assert "packet_voice_ready 1.0" in network.run(sys.executable, "-c", ask).stdout
        for server in servers.values():
            server.terminate()
            assert server.wait(30) == 0


def talk(network: Network, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Half a second of speech through the balancer."""
    speech = str(ROOT / "tests/data/speech.wav")
    url = "ws://127.0.0.1:8788/ws"
    return network.run(sys.executable, "-m", "pipeline", "talk", "--url", url, "--in", speech, *arguments)
