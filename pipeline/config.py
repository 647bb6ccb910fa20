"""The knobs: what the `pipeline` section of a config.json may say, with units and defaults.

A config.json is Kyutai's, unmodified, plus one optional key, `pipeline`, whose content is
`Settings`. It is read strictly: an unknown key, a wrong type or a value out of range is a
`ConfigError` that names the dotted path. The other keys describe the model and are read
by `pipeline.models`, which refuses what it does not know just as strictly. Where a config
lies is a `Source`: a path, or a `HubAddress`, which `pipeline.hub` knows how to fetch.
"""

import json
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from pipeline.errors import ConfigError
from pipeline.values import Sampling

Count = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Milliseconds = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Saying = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
Description = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Sayings = Annotated[tuple[Saying, ...], msgspec.Meta(max_length=8)]
ReplicaName = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9-]{1,32}$")]
RepositoryPattern = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._*-]+/[A-Za-z0-9._*-]+$")]
MESSAGE_BYTES = 65_552  # 17 bytes of header and the largest u16 payload
HUB_SCHEME = "hf://"
_PART = r"[\w.-]+"
_HUB_ADDRESS = re.compile(rf"hf://({_PART}/{_PART})(?:@([^/@]+))?(?:/(.+))?")


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A group of knobs; unknown keys are refused."""


class Server(Section, frozen=True):
    """Where to listen, and who may ask.

    host: address to bind; anything but loopback needs TLS and a token.
    port: TCP port; 0 lets the system choose one.
    allowed_hosts: values the Host header may have, ports ignored. Those of a certificate made by
        `server.tls` need not be named.
    token: what clients must show, at least 16 characters; unset: nothing. On a command line others
        can read it.
    token_file: the file that holds the token instead.
    tls_cert: the certificate chain, PEM; relative to where the server is started; unset: no TLS.
    tls_key: its private key, PEM; unset: it is in the same file.
    tls: `auto` makes a certificate of this machine's own and, off loopback, a token if none is set
        (`docs/how-to/phone.md`).
    tls_folder: where these are kept; unset: `packet-voice/lan` in the user's data folder.
    public_url: the address that people use where a balancer stands in front, such as
        `https://voice.example.org`; its host is allowed, and its pages are the server's own.
    trusted_proxies: addresses or networks of balancers, which say in X-Forwarded-For who is asking.
    replica: what a balancer calls this server, letters, digits and hyphens; tokens to resume with
        begin with it.
    agent_port: TCP port on which a balancer is told how much room there is (HAProxy's agent check);
        unset: none.
    agent_host: address to bind for that; it tells nobody more than a number.
    """

    host: str = "127.0.0.1"
    port: Port = 8788
    allowed_hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
    token: str | None = None
    token_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls: Literal["auto"] | None = None
    tls_folder: str | None = None
    public_url: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    replica: ReplicaName | None = None
    agent_port: Port | None = None
    agent_host: str = "127.0.0.1"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """All but the token, which must not reach a log or a traceback."""
        return [(name, value) for name, value in msgspec.structs.asdict(self).items() if name != "token"]

    def __repr__(self) -> str:
        """The same."""
        return f"Server({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


class Lanes(Section, frozen=True):
    """How many sessions run at once, and how many may wait.

    max: rows of every streaming state; unset: 16, or 1 on models of 10⁹ parameters and more.
    queue: sessions that may wait for a lane before new ones are refused.
    idle_s: a session that holds a lane and sends no audio (silence is audio) for this long is ended.
    """

    max: Count | None = None
    queue: Natural = 8
    idle_s: Seconds = 600.0


class Limits(Section, frozen=True):
    """Bounds on one connection.

    message_bytes: largest WebSocket message accepted.
    send_timeout_s: how long one write may wait for a peer that does not read.
    max_lag_ms: audio older than this, waiting for its model, is dropped oldest first.
    resume_grace_ms: how long a session whose connection broke may be taken up again; 0: never.
    connections: TCP connections open at once, beyond which new ones are turned away.
    connections_per_address: the same from one address; an IPv6 network of 64 bits is one.
    failures_per_minute: wrong tokens and failed TLS handshakes an address may have.
    """

    message_bytes: Annotated[int, msgspec.Meta(ge=17, le=MESSAGE_BYTES)] = MESSAGE_BYTES
    send_timeout_s: Seconds = 2.0
    max_lag_ms: Milliseconds = 400
    resume_grace_ms: Natural = 10_000
    connections: Count = 512
    connections_per_address: Count = 64
    failures_per_minute: Count = 10


class Heartbeat(Section, frozen=True):
    """How silence is noticed.

    every_s: a heartbeat is sent this often.
    timeout_s: a peer from which nothing came for this long is gone.
    """

    every_s: Seconds = 5.0
    timeout_s: Seconds = 15.0


class Text(Section, frozen=True):
    """When an utterance of the agent ends.

    final_after_padding: consecutive padding tokens that close it.
    final_after_s: longest utterance.
    """

    final_after_padding: Count = 13
    final_after_s: Seconds = 60.0


class SamplingDefaults(Section, frozen=True):
    """How tokens are drawn where a session does not say; unset: the checkpoint's own, or LMGen's.

    temperature: of audio tokens; 0 is greedy.
    top_k: of audio tokens, the likeliest that may be drawn; 0 is no limit.
    text_temperature: of text tokens; 0 is greedy.
    text_top_k: of text tokens; 0 is no limit.
    padding_bias: added to the logit of the text padding token: above 0 the agent talks less.
    repetition_penalty: divides the logits of recent text tokens.
    cfg_coef: how far what is drawn is moved away from the model's worst; 1 is not at all. Only
        for models with conditions, fixed when the model is loaded, and at twice the work.
    seed: seed of every session that brings none; unset: a new one each time.
    """

    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_k: Natural | None = None
    text_temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    text_top_k: Natural | None = None
    padding_bias: float | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0)] | None = None
    cfg_coef: float | None = None
    seed: Natural | None = None


class Greeting(Section, frozen=True):
    """What people are told of this model, on the page, in `/health` and when a conversation begins.

    about: one sentence that says what it can do; unset: none.
    suggestions: what may be asked, each as one would say it.
    """

    about: Description | None = None
    suggestions: Sayings = ()


class Untrained(Section, frozen=True):
    """Weights for a configuration that has none.

    seed: where a file that the config names is missing, it is made from this seed.
    """

    seed: Natural | None = None


class Log(Section, frozen=True):
    """What is logged, and how.

    level: lowest level shown.
    format: `console` for people, `json` for tools, `auto` by whether stderr is a terminal.
    trace_every: every so many frames of a session leave a line of how long they took; 0: none.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    trace_every: Natural = 0


class Replay(Section, frozen=True):
    """Recordings of sessions whose clients ask for it.

    folder: where they are written, each in a folder of its own; unset: nobody is recorded.
    """

    folder: str | None = None


class Proxy(Section, frozen=True):
    """The way of the pages to a Hugging Face hub, `/api/hf` (`docs/reference/hub-proxy.md`).

    allow: the repositories it gives, `*` standing for anything within a name; empty: there is no such way.
    folder: where files are kept; unset: `packet-voice/hub` in the user's cache folder.
    cache_bytes: the most that is kept, least recently used first to go.
    file_bytes: the largest file that is given.
    fetches: files that come from the hub at once.
    queue_s: how long a request may wait for its turn to be one of them.
    timeout_s: how long the hub may take to say what a file is, and how long to go on with it.
    fresh_s: how long a branch or a tag is taken for unchanged. A commit always is.
    absent_s: how long a file that the hub has not is taken for absent.
    """

    allow: tuple[RepositoryPattern, ...] = ("onnx-community/whisper-*", "Xenova/whisper-*")
    folder: str | None = None
    cache_bytes: Count = 8 * 2**30
    file_bytes: Count = 4 * 2**30
    fetches: Count = 4
    queue_s: Seconds = 10.0
    timeout_s: Seconds = 10.0
    fresh_s: Annotated[float, msgspec.Meta(ge=0)] = 300.0
    absent_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0


class Ranks(Section, frozen=True):
    """How several processes share one model, where `mlx.launch` starts them (`docs/how-to/tensor-parallel.md`).

    depformer: `cut`: each has a part of it; `whole`: each has all of it, which takes more memory and
        most of the exchanges out of a step.
    join_s: how long they may take to find each other; at least 1.
    """

    depformer: Literal["cut", "whole"] = "cut"
    join_s: Annotated[float, msgspec.Meta(ge=1)] = 60.0


class Settings(Section, frozen=True):
    """The `pipeline` section.

    stall_s: a model thread that does not return within this time ends the process.
    drain_s: how long sessions may finish after SIGTERM.
    """

    server: Server = Server()
    lanes: Lanes = Lanes()
    limits: Limits = Limits()
    heartbeat: Heartbeat = Heartbeat()
    text: Text = Text()
    sampling: SamplingDefaults = SamplingDefaults()
    greeting: Greeting = Greeting()
    untrained: Untrained = Untrained()
    log: Log = Log()
    replay: Replay = Replay()
    proxy: Proxy = Proxy()
    ranks: Ranks = Ranks()
    stall_s: Seconds = 10.0
    drain_s: Seconds = 5.0

    def sampling_for(self, recommended: Mapping[str, Any], seed: int) -> Sampling:
        """These settings, over the checkpoint's `lm_gen_config`, over LMGen's defaults."""
        official = {
            "temp": "temperature",
            "top_k": "top_k",
            "temp_text": "text_temperature",
            "top_k_text": "text_top_k",
        }
        chosen: dict[str, Any] = {"seed": seed}
        chosen |= {ours: recommended[theirs] for theirs, ours in official.items() if theirs in recommended}
        given = msgspec.structs.asdict(self.sampling)
        del given["cfg_coef"]  # of the model, not of a session
        chosen |= {k: v for k, v in given.items() if v is not None}
        return Sampling(**chosen)


@dataclass(frozen=True, slots=True)
class HubAddress:
    """`hf://org/repo[@revision][/file]`, as Kyutai's configs write it.

    revision: branch, tag or commit; one with a slash is written percent-encoded.
    file: empty where the address names a whole repository.
    """

    repo: str
    revision: str = "main"
    file: str = ""

    @classmethod
    def parse(cls, text: str) -> "HubAddress":
        """Read an address.

        Raises:
            ConfigError: it is not written like one.
        """
        match = _HUB_ADDRESS.fullmatch(text)
        if match is None:
            raise ConfigError(text, "an address on the hub is written hf://org/repo[@revision][/file]")
        repo, revision, file = match.groups()
        return cls(repo, urllib.parse.unquote(revision or "main"), file or "")

    def __str__(self) -> str:
        revision = "" if self.revision == "main" else "@" + urllib.parse.quote(self.revision, safe="")
        return f"{HUB_SCHEME}{self.repo}{revision}" + (f"/{self.file}" if self.file else "")


Source: TypeAlias = Path | HubAddress


def parse_source(text: str) -> Source:
    """What `--config` names: a repository on the hub, or else a path."""
    if not text.startswith(HUB_SCHEME):
        return Path(text)
    address = HubAddress.parse(text)
    if address.file:
        raise ConfigError("--config", f"{text} names a file; name the repository, {HUB_SCHEME}org/repo")
    return address


@dataclass(frozen=True, slots=True)
class Config:
    """One config.json: where it lies, what it says of the model, the settings, and what people call it.

    A checkpoint that has none says nothing of its model: `model` is empty, and `path` is
    where the file would be.
    """

    path: Path
    model: Mapping[str, Any]
    settings: Settings
    name: str

    @property
    def folder(self) -> Path:
        """Where the files that the config names are looked for."""
        return self.path.parent


def parse_settings(section: object) -> Settings:
    """Read a `pipeline` section; a `ConfigError` names the dotted path of what is wrong."""
    try:
        return msgspec.convert(section, Settings)
    except msgspec.ValidationError as error:
        problem, _, at = str(error).partition(" - at `$")
        raise ConfigError("pipeline" + at.rstrip("`"), problem) from None


def _apply(section: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(override, "an override is written key=value, as in server.port=9000")
    try:
        value = json.loads(text)
    except ValueError:
        value = text  # a bare word is a string
    *parents, last = key.strip().split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ConfigError(f"pipeline.{key}", f"`{parent}` is not a section")
    section[last] = value


def make_config(raw: Mapping[str, Any], file: Path, overrides: Sequence[str], name: str) -> Config:
    """What a config.json at `file` says, with `key=value` overrides of its `pipeline` section.

    Raises:
        ConfigError: its settings, or an override, are wrong.
    """
    model = dict(raw)
    section = model.pop("pipeline", {})
    if not isinstance(section, dict):
        raise ConfigError("pipeline", "expected an object")
    for override in overrides:
        _apply(section, override)
    return Config(file, model, parse_settings(section), name)


def read_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config.json, or the one in a folder; a folder of weights without one says nothing of its model.

    Raises:
        ConfigError: the file cannot be read, is not a JSON object, or its settings are wrong.
    """
    file = path / "config.json" if path.is_dir() else path
    bare = path.is_dir() and not file.exists() and any(path.glob("*.safetensors"))
    name = file.parent.resolve().name if file.name == "config.json" else file.stem
    return make_config({} if bare else read_object(file), file, overrides, name)


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in `file`.

    Raises:
        ConfigError: there is none.
    """
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(str(file), "no such file") from None
    except OSError as error:
        raise ConfigError(str(file), f"cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(str(file), f"not JSON ({error})") from None
    if not isinstance(raw, dict):
        raise ConfigError(str(file), "expected a JSON object")
    return raw
