"""Every file of a config is found in the right source."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config, HubAddress, make_config
from pipeline.errors import ConfigError, StartupError, WeightsError
from pipeline.models.checkpoint.files import Folder, locate, shard_paths

LM, MIMI, TOKENIZER = (
    "model.safetensors",
    "tokenizer-e351c8d8-checkpoint125.safetensors",
    "tokenizer_spm_32k_3.model",
)
PUBLISHED = (LM, MIMI, TOKENIZER)


class Sources:
    """Folders that stand for repositories; `opened` lists those that were used."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.opened: list[str] = []

    def put(self, folder: str, *names: str) -> Path:
        for name in names:
            path = self.root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(folder)
        return self.root / folder

    def open(self, address: HubAddress) -> Folder:
        self.opened.append(str(HubAddress(address.repo, address.revision)))
        return Folder(self.root / address.repo)

    def find(self, raw: Mapping[str, Any], **environment: str) -> dict[str, str]:
        """Which file each key leads to, from the root."""
        config = make_config(raw, self.root / "own/config.json", (), "own")
        found = locate(config, Folder(self.root / "own"), environment, self.open)
        assert all(Path(found.model[key]).is_absolute() for key in found.model)
        return {key: str(Path(path).relative_to(self.root)) for key, path in found.model.items()}


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path)


def test_names_are_found_beside_the_config(sources: Sources) -> None:
    names = {"moshi_name": "a.safetensors", "mimi_name": "deep/b.safetensors", "tokenizer_name": "c.model"}
    names |= {"lora_name": "d.safetensors", "mimi_config_name": "e.json"}
    sources.put("own", *names.values())
    assert sources.find(names) == {key: f"own/{name}" for key, name in names.items()}
    assert sources.opened == []


def test_names_not_given_are_the_published_ones(sources: Sources) -> None:
    sources.put("own", *PUBLISHED)
    expected = dict(zip(("moshi_name", "mimi_name", "tokenizer_name"), PUBLISHED, strict=True))
    assert sources.find({}) == {key: f"own/{name}" for key, name in expected.items()}


@pytest.mark.parametrize(
    "name", ["model.q4.safetensors", "model.q8.safetensors", "tuned.safetensors", "a.gguf"]
)
def test_a_single_candidate_is_the_language_model(sources: Sources, name: str) -> None:
    sources.put("own", name, MIMI)
    assert sources.find({})["moshi_name"] == f"own/{name}"


def test_several_candidates_are_all_named(sources: Sources) -> None:
    sources.put("own", "model.q4.safetensors", "model.q8.safetensors", MIMI)
    with pytest.raises(ConfigError, match=r"moshi_name: .*model\.q4\.safetensors, model\.q8\.safetensors"):
        sources.find({})


def test_a_tokenizer_that_is_not_named_may_be_missing(sources: Sources) -> None:
    sources.put("own", LM, MIMI)
    assert "tokenizer_name" not in sources.find({})


@pytest.mark.parametrize(
    "key", ["moshi_name", "mimi_name", "tokenizer_name", "lora_name", "mimi_config_name"]
)
def test_a_file_that_is_named_must_be_there(sources: Sources, key: str) -> None:
    sources.put("own", *PUBLISHED)
    with pytest.raises(WeightsError, match=rf"own/absent: no such file \({key}\)"):
        sources.find({key: "absent"})


@pytest.mark.parametrize(("missing", "variable"), [(LM, "LM_REPO"), (MIMI, "MIMI_REPO")])
def test_the_error_for_missing_weights_names_the_variable(
    sources: Sources, missing: str, variable: str
) -> None:
    sources.put("own", *(name for name in PUBLISHED if name != missing))
    with pytest.raises(WeightsError, match=rf"{missing}: no such file .*{variable} may name a repository"):
        sources.find({"moshi_name": LM})


def test_lm_repo_gives_all_that_belongs_to_a_language_model(sources: Sources) -> None:
    sources.put("own", "other.txt")
    sources.put("kyutai/moshiko", "model.q4.safetensors", MIMI, TOKENIZER)
    assert sources.find({}, LM_REPO="kyutai/moshiko") == {
        "moshi_name": "kyutai/moshiko/model.q4.safetensors",
        "mimi_name": f"kyutai/moshiko/{MIMI}",
        "tokenizer_name": f"kyutai/moshiko/{TOKENIZER}",
    }


def test_lm_repo_is_not_opened_where_weights_are_local(sources: Sources) -> None:
    sources.put("own", LM, MIMI)
    sources.put("kyutai/moshiko", *PUBLISHED)
    assert sources.find({}, LM_REPO="kyutai/moshiko", MIMI_REPO="kyutai/moshiko") == {
        "moshi_name": f"own/{LM}",
        "mimi_name": f"own/{MIMI}",
    }
    assert sources.opened == []


def test_mimi_repo_comes_before_lm_repo(sources: Sources) -> None:
    sources.put("own", "other.txt")
    sources.put("kyutai/moshiko", *PUBLISHED)
    sources.put("kyutai/mimi", LM)  # what a repository of a codec alone calls it
    found = sources.find({}, LM_REPO="kyutai/moshiko", MIMI_REPO="hf://kyutai/mimi@v1")
    assert found["moshi_name"] == f"kyutai/moshiko/{LM}"
    assert found["mimi_name"] == f"kyutai/mimi/{LM}"
    assert sources.opened == ["hf://kyutai/moshiko", "hf://kyutai/mimi@v1"]


def test_the_language_model_is_never_taken_for_the_codec(sources: Sources) -> None:
    sources.put("own", "other.txt")
    sources.put("kyutai/moshiko", LM)
    with pytest.raises(WeightsError, match="mimi_name"):
        sources.find({}, LM_REPO="kyutai/moshiko")


def test_mimi_local_takes_precedence(sources: Sources) -> None:
    sources.put("own", LM, MIMI)
    local = sources.put("elsewhere", "mimi.safetensors") / "mimi.safetensors"
    for raw in ({}, {"mimi_name": "hf://kyutai/mimi/absent.safetensors"}):
        assert sources.find(raw, MIMI_LOCAL=str(local))["mimi_name"] == "elsewhere/mimi.safetensors"
    with pytest.raises(ConfigError, match=r"MIMI_LOCAL: .*absent is not a file"):
        sources.find({}, MIMI_LOCAL="absent")


def test_a_name_may_refer_to_another_repository_or_folder(sources: Sources) -> None:
    sources.put("own", LM)
    sources.put("kyutai/mimi", "deep/mimi.safetensors")
    tokenizer = sources.put("elsewhere", "spm.model") / "spm.model"
    names = {
        "mimi_name": "hf://kyutai/mimi@v1/deep/mimi.safetensors",
        "tokenizer_name": f"file://{tokenizer}",
    }
    found = sources.find(names)
    assert found["mimi_name"] == "kyutai/mimi/deep/mimi.safetensors"
    assert found["tokenizer_name"] == "elsewhere/spm.model"
    assert sources.opened == ["hf://kyutai/mimi@v1"]


@pytest.mark.parametrize(
    ("raw", "environment", "message"),
    [
        ({"moshi_name": 3}, {}, "moshi_name: expected a string"),
        ({"moshi_name": "hf://kyutai"}, {}, "hf://kyutai: not a hub address"),
        ({"moshi_name": "hf://kyutai/mimi"}, {}, "moshi_name: .*names a repository; name a file"),
        ({}, {"LM_REPO": "moshiko"}, "hf://moshiko: not a hub address"),
        ({}, {"LM_REPO": "kyutai/moshiko/a.safetensors"}, "LM_REPO: .*names a file"),
    ],
)
def test_an_invalid_address_is_refused(
    sources: Sources, raw: dict[str, Any], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(StartupError, match=message) as caught:
        sources.find(raw, **environment)
    assert caught.value.exit_code == 2


def test_an_index_needs_all_its_shards(sources: Sources) -> None:
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}}
    folder = sources.put("own", "one.safetensors", MIMI)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"own/two\.safetensors: no such file"):
        sources.find({})
    sources.put("own", "two.safetensors")
    found = sources.root / sources.find({})["moshi_name"]
    assert shard_paths(found) == (folder / "one.safetensors", folder / "two.safetensors")
    assert shard_paths(folder / "one.safetensors") == (folder / "one.safetensors",)


@pytest.mark.parametrize(
    "content",
    ["[]", "no", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../b"}}', '{"weight_map": {"a": 3}}'],
)
def test_an_invalid_index_is_named(tmp_path: Path, content: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json"):
        shard_paths(index)


def test_weights_made_from_a_seed_are_not_searched_in_repositories(sources: Sources) -> None:
    sources.put("kyutai/moshiko", *PUBLISHED)
    raw = {"moshi_name": LM, "pipeline": {"untrained": {"seed": 1}}}
    config = make_config(raw, sources.root / "own/config.json", (), "own")
    found = locate(config, Folder(sources.root / "own"), {"LM_REPO": "kyutai/moshiko"}, sources.open)
    assert found.model == {"moshi_name": LM}
    assert sources.opened == []


def test_the_rest_of_the_config_stays_as_it_was(sources: Sources) -> None:
    sources.put("own", LM, MIMI)
    config = make_config({"dim": 3}, sources.root / "own/config.json", ["lanes.max=2"], "own")
    found: Config = locate(config, Folder(sources.root / "own"), {}, sources.open)
    assert found.model["dim"] == 3
    assert (found.path, found.settings, found.name) == (config.path, config.settings, config.name)
    assert config.model == {"dim": 3}
