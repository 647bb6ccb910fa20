"""Parsing of the `pipeline` section of a config.json."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.inspect import FloatType, IntType, StructType, Type, UnionType, type_info

from pipeline.config import SamplingDefaults, Settings, read_config
from pipeline.errors import ConfigError
from pipeline.protocol.metadata import Configure


def written(folder: Path, content: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return path


def test_every_setting_has_a_default(tmp_path: Path) -> None:
    settings = read_config(written(tmp_path, {})).settings
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8788)
    assert settings.lanes.queue == 8
    assert settings.stall_s == 10


def test_model_keys_are_unchanged_and_the_section_is_removed(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, {"dim": 64, "pipeline": {"lanes": {"max": 2}}}))
    assert config.model == {"dim": 64}
    assert config.settings.lanes.max == 2
    assert config.folder == tmp_path


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ({"servre": {}}, "pipeline"),
        ({"server": {"prot": 1}}, "pipeline.server"),
        ({"server": {"port": "x"}}, "pipeline.server.port"),
        ({"server": {"port": 70000}}, "pipeline.server.port"),
        ({"lanes": {"max": 0}}, "pipeline.lanes.max"),
        ({"heartbeat": {"every_s": -1}}, "pipeline.heartbeat.every_s"),
        ({"heartbeat": {"every_s": math.inf}}, "pipeline.heartbeat.every_s"),
        ({"heartbeat": {"timeout_s": 1e308}}, "pipeline.heartbeat.timeout_s"),
        ({"text": {"final_after_s": math.inf}}, "pipeline.text.final_after_s"),
        ({"limits": {"max_lag_ms": 1 << 53}}, "pipeline.limits.max_lag_ms"),
        ({"sampling": {"padding_bias": math.nan}}, "pipeline.sampling.padding_bias"),
        ({"log": {"level": "loud"}}, "pipeline.log.level"),
        ({"greeting": {"about": ""}}, "pipeline.greeting.about"),
        ({"greeting": {"about": "x" * 201}}, "pipeline.greeting.about"),
        ({"greeting": {"suggestions": "hello"}}, "pipeline.greeting.suggestions"),
        ({"greeting": {"suggestions": ["hello"] * 9}}, "pipeline.greeting.suggestions"),
        ({"greeting": {"suggestions": ["hello", ""]}}, "pipeline.greeting.suggestions[1]"),
        ({"greeting": {"suggestions": ["x" * 81]}}, "pipeline.greeting.suggestions[0]"),
        ({"server": {"allowed_hosts": ["a", 1]}}, "pipeline.server.allowed_hosts[1]"),
    ],
)
def test_an_invalid_key_is_named_by_its_path(tmp_path: Path, section: object, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(written(tmp_path, {"pipeline": section}))
    assert caught.value.key == path
    assert caught.value.exit_code == 2


def numbers_without_bounds(kind: Type, path: str = "pipeline") -> Iterator[str]:
    """The dotted paths of settings that are numbers, and may be infinite or as large as one likes."""
    match kind:
        case StructType(fields=fields):
            for field in fields:
                yield from numbers_without_bounds(field.type, f"{path}.{field.name}")
        case UnionType(types):
            for each in types:
                yield from numbers_without_bounds(each, path)
        case IntType(gt=gt, ge=ge, lt=lt, le=le) | FloatType(gt=gt, ge=ge, lt=lt, le=le):
            if (gt is None and ge is None) or (lt is None and le is None):
                yield path


def test_every_number_has_bounds() -> None:
    """An infinite one, or one too large for JSON, is refused at the start, not by whatever meets it first."""
    assert list(numbers_without_bounds(type_info(Settings))) == []
    assert list(numbers_without_bounds(type_info(int | float | None))) == ["pipeline"] * 2


def test_sampling_has_the_ranges_of_clients() -> None:
    """What a session may set, the configuration may set as its default."""
    allowed = {field.name: field.type for field in type_info(Configure).fields}
    for field in type_info(SamplingDefaults).fields:
        if field.name in allowed:
            assert field.type == allowed[field.name], field.name


def test_a_greeting_is_empty_by_default_and_accepts_the_maximum_lengths(tmp_path: Path) -> None:
    """Lengths count characters, not bytes."""
    assert read_config(written(tmp_path, {})).settings.greeting.suggestions == ()
    greeting = {"about": "ü" * 200, "suggestions": ["?", *["é" * 80] * 7]}
    settings = read_config(written(tmp_path, {"pipeline": {"greeting": greeting}})).settings
    assert settings.greeting.about == greeting["about"]
    assert list(settings.greeting.suggestions) == greeting["suggestions"]


def test_an_override_takes_precedence_and_is_validated_too(tmp_path: Path) -> None:
    path = written(tmp_path, {"pipeline": {"server": {"port": 1}}})
    assert read_config(path, ["server.port=9000", "log.level=debug"]).settings.server.port == 9000
    with pytest.raises(ConfigError, match=r"server\.port: Expected"):
        read_config(path, ["server.port=high"])
    with pytest.raises(ConfigError, match="key=value"):
        read_config(path, ["server.port"])
    with pytest.raises(ConfigError, match="not a section"):
        read_config(path, ["server.port.x=1"])


@pytest.mark.parametrize("content", ["{", "[1]", '{"pipeline": 3}', "\xff"])
def test_a_malformed_config_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError):
        read_config(path)
    with pytest.raises(ConfigError, match="no such file"):
        read_config(tmp_path / "absent")


def test_sampling_defaults_come_from_settings_then_checkpoint_then_lmgen(tmp_path: Path) -> None:
    path = written(tmp_path, {})
    settings = read_config(path, ["sampling.temperature=0.5"]).settings
    sampling = settings.sampling_for({"temp": 0.9, "temp_text": 0.6}, seed=7)
    assert (sampling.temperature, sampling.text_temperature, sampling.top_k) == (0.5, 0.6, 250)
    assert sampling.seed == 7


def test_a_link_that_leads_nowhere_is_no_absent_config(tmp_path: Path) -> None:
    """As where a cache was emptied: a folder without a config would be served with other files."""
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert read_config(tmp_path).model == {}
    (tmp_path / "config.json").symlink_to(tmp_path / "absent")
    with pytest.raises(ConfigError, match="no such file"):
        read_config(tmp_path)
