"""The settings: the keys of the `pipeline` section of a config.json, with types, units and defaults.

A config.json is Kyutai's, unmodified, plus one optional key, `pipeline`, parsed as `Settings`. Parsing is
strict: an unknown key, a wrong type or a value out of range is a `ConfigError` with the dotted path of the
key. The other keys describe the model; `pipeline.models` parses them just as strictly. A `Source` is
the location of a config: a path, or a `HubAddress` that `pipeline.hub` can fetch.

The docstrings of the sections are the tables of docs/reference/configuration.md (`make docs`).
"""

import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from pipeline.errors import ConfigError, did_you_mean
from pipeline.system.inputs import parse_json, read_text
from pipeline.values import SamplingParams

LARGEST_INTEGER = (1 << 53) - 1  # beyond it JavaScript's numbers skip integers
LONGEST_S = 1e9  # 31 years, for ever; a sum of such times is still exact to the millisecond
Count = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_INTEGER)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_INTEGER)]
Seconds = Annotated[float, msgspec.Meta(ge=0.001, le=LONGEST_S)]
SecondsFromZero = Annotated[float, msgspec.Meta(ge=0, le=LONGEST_S)]
Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=int(LONGEST_S * 1000))]
# The ranges of sampling are those of a client's `configure`.
Temperature = Annotated[float, msgspec.Meta(ge=0, le=10)]
TopK = Annotated[int, msgspec.Meta(ge=0, le=65_536)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Suggestion = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
Description = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Suggestions = Annotated[tuple[Suggestion, ...], msgspec.Meta(max_length=8)]
ReplicaName = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9-]{1,32}$")]
RepositoryPattern = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._*-]+/[A-Za-z0-9._*-]+$")]
MESSAGE_BYTES = 65_552  # 17 bytes of header and the largest u16 payload
HUB_SCHEME = "hf://"
_PART = r"[\w.-]+"
_HUB_ADDRESS = re.compile(rf"hf://({_PART}/{_PART})(?:@([^/@]+))?(?:/(.+))?")


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A group of settings; unknown keys are errors."""


class Server(Section, frozen=True):
    """Listening address, TLS and access control.

    host: address to bind; any address other than loopback requires TLS and a token.
    port: TCP port; 0 picks a free one.
    allowed_hosts: accepted values of the Host header, without port. The hosts of a certificate created by
        `server.tls` are accepted as well.
    token: access token that clients must present, at least 16 characters; unset: no token. Other users can
        read it on a command line, so prefer `server.token_file`.
    token_file: file that contains the token.
    tls_cert: certificate chain, PEM; relative to the working folder of the server; unset: no TLS.
    tls_key: private key of the certificate, PEM; unset: in the same file.
    tls: `auto` creates a certificate and, unless bound to loopback, a token if none is set
        (`docs/how-to/phone.md`).
    tls_folder: folder for the created certificate and token; unset: `packet-voice/lan` in the user's data
        folder.
    public_url: public address of the server behind a reverse proxy, for example
        `https://voice.example.org/voice`; its host and origin are accepted, its path is taken off
        all paths.
    trusted_proxies: addresses or networks of reverse proxies whose X-Forwarded-For or Forwarded header
        is trusted.
    replica: name of this server at the load balancer, letters, digits and hyphens; resume tokens begin
        with it.
    agent_port: TCP port for HAProxy's agent check, which reports the free capacity; unset: none.
    agent_host: address to bind for the agent check.
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
        """All fields except the token, which must not appear in logs or tracebacks."""
        return [(name, value) for name, value in msgspec.structs.asdict(self).items() if name != "token"]

    def __repr__(self) -> str:
        """All fields except the token."""
        return f"Server({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


class Lanes(Section, frozen=True):
    """Number of concurrent and waiting sessions.

    max: concurrent sessions, the rows of the batch; unset: 16, or 1 for models of 10⁹ parameters and more.
    admit: sessions that may run at once; `auto`: as many as this machine can serve in time, measured at the
        start and corrected while it runs.
    queue: sessions that can wait for a lane; further ones are refused.
    idle_s: time after which a session with a lane is ended if it sends no audio; silence counts as audio.
    """

    max: Count | None = None
    admit: Literal["auto"] | Count = "auto"
    queue: Natural = 8
    idle_s: Seconds = 600.0


class Limits(Section, frozen=True):
    """Limits on connections and messages.

    message_bytes: largest accepted WebSocket message.
    send_timeout_s: time after which a write to a client that does not read fails.
    max_lag_ms: queued audio older than this is dropped, oldest first.
    resume_grace_ms: time during which a session can be resumed after its connection was lost; 0: never.
    live_session_s: longest session of the Live and Realtime APIs, which announce when a session expires.
    connections: concurrent TCP connections; further ones are rejected.
    connections_per_address: concurrent TCP connections from one address; an IPv6 /64 network counts as one.
    failures_per_minute: wrong tokens and failed TLS handshakes allowed per address.
    events_per_second: WebSocket frames of one connection that are handled per second; a client that sends
        more is read more slowly, and closed if it does not stop.
    processor_share: share of one processor core that the server spends on one WebSocket, models excluded.
    requests_processor_share: share of one processor core that the server spends on the HTTP requests and TLS
        handshakes of one address.
    address_processor_share: share of one processor core that the server spends on everything that comes from
        one address, models excluded.
    """

    message_bytes: Annotated[int, msgspec.Meta(ge=17, le=MESSAGE_BYTES)] = MESSAGE_BYTES
    send_timeout_s: Seconds = 2.0
    max_lag_ms: Milliseconds = 400
    resume_grace_ms: Natural = 10_000
    live_session_s: Seconds = 3600.0
    connections: Count = 512
    connections_per_address: Count = 64
    failures_per_minute: Count = 10
    events_per_second: Count = 250
    processor_share: Share = 0.2
    requests_processor_share: Share = 0.4
    address_processor_share: Share = 0.6


class Heartbeat(Section, frozen=True):
    """Detection of dead connections.

    every_s: interval between heartbeats.
    timeout_s: time without any message after which a client counts as disconnected.
    """

    every_s: Seconds = 5.0
    timeout_s: Seconds = 15.0


class Text(Section, frozen=True):
    """End of an utterance of the agent.

    final_after_padding: number of consecutive padding tokens that end an utterance.
    final_after_s: maximum length of an utterance.
    """

    final_after_padding: Count = 13
    final_after_s: Seconds = 60.0


class SamplingDefaults(Section, frozen=True):
    """Default sampling parameters of a session; unset: those of the checkpoint, or else of LMGen.

    temperature: temperature for audio tokens; 0: greedy.
    top_k: number of most likely audio tokens to sample from; 0: no limit.
    text_temperature: temperature for text tokens; 0: greedy.
    text_top_k: number of most likely text tokens to sample from; 0: no limit.
    padding_bias: added to the logit of the text padding token; above 0 the agent speaks less.
    repetition_penalty: divisor for the logits of recent text tokens.
    cfg_coef: coefficient of classifier-free guidance; 1: off. Only for models with conditions; fixed when
        the model is loaded, and doubles the computation.
    seed: seed of sessions that do not send one; unset: a new one each time.
    """

    temperature: Temperature | None = None
    top_k: TopK | None = None
    text_temperature: Temperature | None = None
    text_top_k: TopK | None = None
    padding_bias: Annotated[float, msgspec.Meta(ge=-100, le=100)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(ge=0.1, le=10)] | None = None
    cfg_coef: Annotated[float, msgspec.Meta(ge=-100, le=100)] | None = None
    seed: Natural | None = None


class Greeting(Section, frozen=True):
    """Description of the model on the page, in `/health` and at the start of a session.

    about: one sentence about what the model can do; unset: none.
    suggestions: example questions.
    """

    about: Description | None = None
    suggestions: Suggestions = ()


class PromptDefaults(Section, frozen=True):
    """What sessions begin with, for models that take a voice and a role (`docs/how-to/personas.md`).

    voice: name of the default voice; unset: none.
    role: default role; unset: none.
    pin: keep the voice and the role in the model's memory for the whole session, instead of for its first
        minutes.
    """

    voice: str | None = None
    role: str | None = None
    pin: bool = False


class Untrained(Section, frozen=True):
    """Random weights for a configuration without a checkpoint.

    seed: seed for generating missing weight files; unset: missing files are errors.
    """

    seed: Natural | None = None


class Log(Section, frozen=True):
    """Log output.

    level: lowest level to log.
    format: `console` for people, `json` for tools; `auto`: `console` if stderr is a terminal, else `json`.
    trace_every: log the timing of every n-th frame of a session; 0: none.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    trace_every: Natural = 0


class Replay(Section, frozen=True):
    """Recordings of sessions, made at a client's request.

    folder: folder for recordings, each in its own subfolder; unset: no recordings.
    recordings: most subfolders that the folder may have; further sessions are not recorded.
    recording_bytes: most bytes of one recording; it ends there, and its session goes on. An hour is 346 MB.
    """

    folder: str | None = None
    recordings: Count = 100
    recording_bytes: Count = 2**30


class Proxy(Section, frozen=True):
    """Proxy and cache for a Hugging Face hub at `/api/hf` (`docs/reference/hub-proxy.md`).

    allow: repositories to serve, `*` matches any part of a name; empty: no proxy.
    folder: cache folder; unset: `packet-voice/hub` in the user's cache folder.
    cache_bytes: maximum size of the cache; least recently used files are evicted.
    file_bytes: largest file to serve.
    fetches: concurrent downloads from the hub.
    queue_s: time a request may wait for a download slot.
    timeout_s: time the hub may take to respond, and between two parts of a response.
    fresh_s: time before a branch or tag is checked again; commits never are.
    absent_s: time before a missing file is requested again.
    """

    allow: tuple[RepositoryPattern, ...] = ("onnx-community/whisper-*", "Xenova/whisper-*")
    folder: str | None = None
    cache_bytes: Count = 8 * 2**30
    file_bytes: Count = 4 * 2**30
    fetches: Count = 4
    queue_s: Seconds = 10.0
    timeout_s: Seconds = 10.0
    fresh_s: SecondsFromZero = 300.0
    absent_s: SecondsFromZero = 60.0


class Ranks(Section, frozen=True):
    """Tensor parallelism, when `mlx.launch` starts several ranks (`docs/how-to/tensor-parallel.md`).

    depformer: `cut`: shard the depth transformer; `whole`: replicate it, which takes more memory and avoids
        most of the communication of a step.
    join_s: time the ranks may take to connect, at least 1.
    """

    depformer: Literal["cut", "whole"] = "cut"
    join_s: Annotated[float, msgspec.Meta(ge=1, le=LONGEST_S)] = 60.0


class Settings(Section, frozen=True):
    """The `pipeline` section.

    kernels: `auto`: compute with native kernels on a CPU, where they have been built
        (`docs/explanation/kernels.md`); `off`: with MLX alone.
    stall_s: time after which a model thread that does not return ends the process.
    drain_s: time that sessions have to finish after SIGTERM.
    """

    server: Server = Server()
    lanes: Lanes = Lanes()
    limits: Limits = Limits()
    heartbeat: Heartbeat = Heartbeat()
    text: Text = Text()
    sampling: SamplingDefaults = SamplingDefaults()
    greeting: Greeting = Greeting()
    prompt: PromptDefaults = PromptDefaults()
    untrained: Untrained = Untrained()
    log: Log = Log()
    replay: Replay = Replay()
    proxy: Proxy = Proxy()
    ranks: Ranks = Ranks()
    kernels: Literal["auto", "off"] = "auto"
    stall_s: Seconds = 10.0
    drain_s: Seconds = 5.0

    def sampling_for(self, recommended: Mapping[str, Any], seed: int) -> SamplingParams:
        """The parameters of a session: these settings, else `lm_gen_config`, else LMGen's defaults."""
        official = {
            "temp": "temperature",
            "top_k": "top_k",
            "temp_text": "text_temperature",
            "top_k_text": "text_top_k",
        }
        chosen: dict[str, Any] = {"seed": seed}
        chosen |= {ours: recommended[theirs] for theirs, ours in official.items() if theirs in recommended}
        given = msgspec.structs.asdict(self.sampling)
        del given["cfg_coef"]  # a parameter of the model, not of a session
        chosen |= {k: v for k, v in given.items() if v is not None}
        return SamplingParams(**chosen)


@dataclass(frozen=True, slots=True)
class HubAddress:
    """The address `hf://org/repo[@revision][/file]`, as in Kyutai's configs.

    revision: branch, tag or commit; a slash in it is percent-encoded.
    file: empty for a whole repository.
    """

    repo: str
    revision: str = "main"
    file: str = ""

    @classmethod
    def parse(cls, text: str) -> "HubAddress":
        """Parse an address.

        Raises:
            ConfigError: it is malformed.
        """
        match = _HUB_ADDRESS.fullmatch(text)
        if match is None:
            raise ConfigError(text, "not a hub address; write hf://org/repo[@revision][/file]")
        repo, revision, file = match.groups()
        return cls(repo, urllib.parse.unquote(revision or "main"), file or "")

    def __str__(self) -> str:
        revision = "" if self.revision == "main" else "@" + urllib.parse.quote(self.revision, safe="")
        return f"{HUB_SCHEME}{self.repo}{revision}" + (f"/{self.file}" if self.file else "")


Source: TypeAlias = Path | HubAddress


def parse_source(text: str) -> Source:
    """Parse the value of `--config`: a repository on a hub, or else a path."""
    if not text.startswith(HUB_SCHEME):
        return Path(text)
    address = HubAddress.parse(text)
    if address.file:
        raise ConfigError("--config", f"{text} names a file; name the repository, {HUB_SCHEME}org/repo")
    return address


@dataclass(frozen=True, slots=True)
class Config:
    """A parsed config.json: its path, the keys of the model, the settings, and a display name.

    For a checkpoint without a config.json, `model` is empty and `path` is where the file would be.
    """

    path: Path
    model: Mapping[str, Any]
    settings: Settings
    name: str

    @property
    def folder(self) -> Path:
        """The folder that file names in the config are relative to."""
        return self.path.parent


def parse_settings(section: object) -> Settings:
    """Parse a `pipeline` section; a `ConfigError` has the dotted path of the invalid key."""
    try:
        return msgspec.convert(section, Settings)
    except UnicodeEncodeError:
        raise ConfigError("pipeline", "a key holds bytes that are not text in UTF-8") from None
    except msgspec.ValidationError as error:
        problem, _, at = str(error).partition(" - at `$")
        raise ConfigError("pipeline" + at.rstrip("`"), problem + _key_meant(section)) from None


def _keys(kind: type[Section], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a section."""
    for field in msgspec.structs.fields(kind):
        is_section = isinstance(field.type, type) and issubclass(field.type, Section)
        yield from _keys(field.type, f"{prefix}{field.name}.") if is_section else (f"{prefix}{field.name}",)


def _key_meant(section: object) -> str:
    """The end of a message: the key that an unknown one probably stands for, by its name or its last part."""
    known = list(_keys(Settings))
    given = _given_keys(section)
    unknown = next(
        (key for key in given if not any(f"{each}.".startswith(f"{key}.") for each in known)), None
    )
    if unknown is None:
        return ""
    same_name = [key for key in known if key.rpartition(".")[2] == unknown.rpartition(".")[2]]
    return f"; did you mean {same_name[0]}?" if same_name else did_you_mean(unknown, known)


def _given_keys(section: object, prefix: str = "") -> Iterator[str]:
    if isinstance(section, dict):
        for name, value in section.items():
            yield f"{prefix}{name}"
            yield from _given_keys(value, f"{prefix}{name}.")


def _apply(section: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(override, "not an override; write key=value, for example server.port=9000")
    try:
        value = parse_json(text)
    except ValueError:
        value = text  # a bare word is a string
    *parents, last = key.strip().split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ConfigError(f"pipeline.{key}", f"`{parent}` is not a section")
    section[last] = value


def make_config(raw: Mapping[str, Any], file: Path, overrides: Sequence[str], name: str) -> Config:
    """Build a `Config` from the content of `file` and `key=value` overrides of its `pipeline` section.

    Raises:
        ConfigError: a setting or an override is invalid.
    """
    model = dict(raw)
    section = model.pop("pipeline", {})
    if not isinstance(section, dict):
        raise ConfigError("pipeline", "expected an object")
    for override in overrides:
        _apply(section, override)
    return Config(file, model, parse_settings(section), name)


def read_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config.json, or the one in a folder; a folder with weights only has an empty `model`.

    Raises:
        ConfigError: the file cannot be read, is not a JSON object, or has an invalid setting.
    """
    file = path / "config.json" if path.is_dir() else path
    bare = path.is_dir() and not (file.exists() or file.is_symlink()) and any(path.glob("*.safetensors"))
    name = file.parent.resolve().name if file.name == "config.json" else file.stem
    return make_config({} if bare else read_object(file), file, overrides, name)


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object from `file`.

    Raises:
        ConfigError: the file cannot be read, or is not a JSON object.
    """
    try:
        raw = parse_json(read_text(file))
    except FileNotFoundError:
        raise ConfigError(str(file), "no such file") from None
    except OSError as error:
        raise ConfigError(str(file), f"cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(str(file), f"not valid JSON ({error})") from None
    if not isinstance(raw, dict):
        raise ConfigError(str(file), "expected a JSON object")
    return raw
