"""Every file a config names is found where it should be looked for, and nowhere else."""

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


class Shelf:
    """Folders that stand for repositories; `asked` says which were opened."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []

    def put(self, folder: str, *names: str) -> Path:
        for name in names:
            path = self.root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(folder)
        return self.root / folder

    def open(self, address: HubAddress) -> Folder:
        self.asked.append(str(HubAddress(address.repo, address.revision)))
        return Folder(self.root / address.repo)

    def find(self, raw: Mapping[str, Any], **environment: str) -> dict[str, str]:
        """Which file each key leads to, from the root."""
        config = make_config(raw, self.root / "own/config.json", (), "own")
        found = locate(config, Folder(self.root / "own"), environment, self.open)
        assert all(Path(found.model[key]).is_absolute() for key in found.model)
        return {key: str(Path(path).relative_to(self.root)) for key, path in found.model.items()}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_names_are_found_beside_the_config(shelf: Shelf) -> None:
    names = {"moshi_name": "a.safetensors", "mimi_name": "deep/b.safetensors", "tokenizer_name": "c.model"}
    names |= {"lora_name": "d.safetensors", "mimi_config_name": "e.json"}
    shelf.put("own", *names.values())
    assert shelf.find(names) == {key: f"own/{name}" for key, name in names.items()}
    assert shelf.asked == []


def test_names_not_given_are_the_published_ones(shelf: Shelf) -> None:
    shelf.put("own", *PUBLISHED)
    expected = dict(zip(("moshi_name", "mimi_name", "tokenizer_name"), PUBLISHED, strict=True))
    assert shelf.find({}) == {key: f"own/{name}" for key, name in expected.items()}


@pytest.mark.parametrize(
    "name", ["model.q4.safetensors", "model.q8.safetensors", "tuned.safetensors", "a.gguf"]
)
def test_a_single_candidate_is_the_language_model(shelf: Shelf, name: str) -> None:
    shelf.put("own", name, MIMI)
    assert shelf.find({})["moshi_name"] == f"own/{name}"


def test_several_candidates_are_all_named(shelf: Shelf) -> None:
    shelf.put("own", "model.q4.safetensors", "model.q8.safetensors", MIMI)
    with pytest.raises(ConfigError, match=r"moshi_name: .*model\.q4\.safetensors, model\.q8\.safetensors"):
        shelf.find({})


def test_a_tokenizer_nobody_names_may_be_missing(shelf: Shelf) -> None:
    shelf.put("own", LM, MIMI)
    assert "tokenizer_name" not in shelf.find({})


@pytest.mark.parametrize(
    "key", ["moshi_name", "mimi_name", "tokenizer_name", "lora_name", "mimi_config_name"]
)
def test_a_file_that_is_named_must_be_there(shelf: Shelf, key: str) -> None:
    shelf.put("own", *PUBLISHED)
    with pytest.raises(WeightsError, match=rf"own/absent: no such file \({key}\)"):
        shelf.find({key: "absent"})


@pytest.mark.parametrize(("missing", "variable"), [(LM, "LM_REPO"), (MIMI, "MIMI_REPO")])
def test_missing_weights_say_which_variable_helps(shelf: Shelf, missing: str, variable: str) -> None:
    shelf.put("own", *(name for name in PUBLISHED if name != missing))
    with pytest.raises(WeightsError, match=rf"{missing}: no such file .*{variable} may name a repository"):
        shelf.find({"moshi_name": LM})


def test_lm_repo_gives_all_that_belongs_to_a_language_model(shelf: Shelf) -> None:
    shelf.put("own", "other.txt")
    shelf.put("kyutai/moshiko", "model.q4.safetensors", MIMI, TOKENIZER)
    assert shelf.find({}, LM_REPO="kyutai/moshiko") == {
        "moshi_name": "kyutai/moshiko/model.q4.safetensors",
        "mimi_name": f"kyutai/moshiko/{MIMI}",
        "tokenizer_name": f"kyutai/moshiko/{TOKENIZER}",
    }


def test_lm_repo_is_not_asked_where_weights_are_local(shelf: Shelf) -> None:
    shelf.put("own", LM, MIMI)
    shelf.put("kyutai/moshiko", *PUBLISHED)
    assert shelf.find({}, LM_REPO="kyutai/moshiko", MIMI_REPO="kyutai/moshiko") == {
        "moshi_name": f"own/{LM}",
        "mimi_name": f"own/{MIMI}",
    }
    assert shelf.asked == []


def test_mimi_repo_comes_before_lm_repo(shelf: Shelf) -> None:
    shelf.put("own", "other.txt")
    shelf.put("kyutai/moshiko", *PUBLISHED)
    shelf.put("kyutai/mimi", LM)  # what a repository of a codec alone calls it
    found = shelf.find({}, LM_REPO="kyutai/moshiko", MIMI_REPO="hf://kyutai/mimi@v1")
    assert found["moshi_name"] == f"kyutai/moshiko/{LM}"
    assert found["mimi_name"] == f"kyutai/mimi/{LM}"
    assert shelf.asked == ["hf://kyutai/moshiko", "hf://kyutai/mimi@v1"]


def test_the_language_model_is_never_taken_for_the_codec(shelf: Shelf) -> None:
    shelf.put("own", "other.txt")
    shelf.put("kyutai/moshiko", LM)
    with pytest.raises(WeightsError, match="mimi_name"):
        shelf.find({}, LM_REPO="kyutai/moshiko")


def test_mimi_local_wins_over_everything(shelf: Shelf) -> None:
    shelf.put("own", LM, MIMI)
    local = shelf.put("elsewhere", "mimi.safetensors") / "mimi.safetensors"
    for raw in ({}, {"mimi_name": "hf://kyutai/mimi/absent.safetensors"}):
        assert shelf.find(raw, MIMI_LOCAL=str(local))["mimi_name"] == "elsewhere/mimi.safetensors"
    with pytest.raises(ConfigError, match=r"MIMI_LOCAL: .*absent is not a file"):
        shelf.find({}, MIMI_LOCAL="absent")


def test_a_name_may_lead_to_another_repository_or_folder(shelf: Shelf) -> None:
    shelf.put("own", LM)
    shelf.put("kyutai/mimi", "deep/mimi.safetensors")
    tokenizer = shelf.put("elsewhere", "spm.model") / "spm.model"
    names = {
        "mimi_name": "hf://kyutai/mimi@v1/deep/mimi.safetensors",
        "tokenizer_name": f"file://{tokenizer}",
    }
    found = shelf.find(names)
    assert found["mimi_name"] == "kyutai/mimi/deep/mimi.safetensors"
    assert found["tokenizer_name"] == "elsewhere/spm.model"
    assert shelf.asked == ["hf://kyutai/mimi@v1"]


@pytest.mark.parametrize(
    ("raw", "environment", "says"),
    [
        ({"moshi_name": 3}, {}, "moshi_name: expected a string"),
        ({"moshi_name": "hf://kyutai"}, {}, "hf://kyutai: not a hub address"),
        ({"moshi_name": "hf://kyutai/mimi"}, {}, "moshi_name: .*names a repository; name a file"),
        ({}, {"LM_REPO": "moshiko"}, "hf://moshiko: not a hub address"),
        ({}, {"LM_REPO": "kyutai/moshiko/a.safetensors"}, "LM_REPO: .*names a file"),
    ],
)
def test_what_is_not_an_address_is_said_to_be_none(
    shelf: Shelf, raw: dict[str, Any], environment: dict[str, str], says: str
) -> None:
    with pytest.raises(StartupError, match=says) as caught:
        shelf.find(raw, **environment)
    assert caught.value.exit_code == 2


def test_an_index_needs_all_its_shards(shelf: Shelf) -> None:
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}}
    folder = shelf.put("own", "one.safetensors", MIMI)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"own/two\.safetensors: no such file"):
        shelf.find({})
    shelf.put("own", "two.safetensors")
    found = shelf.root / shelf.find({})["moshi_name"]
    assert shard_paths(found) == (folder / "one.safetensors", folder / "two.safetensors")
    assert shard_paths(folder / "one.safetensors") == (folder / "one.safetensors",)


@pytest.mark.parametrize(
    "content",
    ["[]", "no", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../b"}}', '{"weight_map": {"a": 3}}'],
)
def test_an_index_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json"):
        shard_paths(index)


def test_what_is_made_from_a_seed_is_looked_for_nowhere_else(shelf: Shelf) -> None:
    shelf.put("kyutai/moshiko", *PUBLISHED)
    raw = {"moshi_name": LM, "pipeline": {"untrained": {"seed": 1}}}
    config = make_config(raw, shelf.root / "own/config.json", (), "own")
    found = locate(config, Folder(shelf.root / "own"), {"LM_REPO": "kyutai/moshiko"}, shelf.open)
    assert found.model == {"moshi_name": LM}
    assert shelf.asked == []


def test_the_rest_of_the_config_stays_as_it_was(shelf: Shelf) -> None:
    shelf.put("own", LM, MIMI)
    config = make_config({"dim": 3}, shelf.root / "own/config.json", ["lanes.max=2"], "own")
    found: Config = locate(config, Folder(shelf.root / "own"), {}, shelf.open)
    assert found.model["dim"] == 3
    assert (found.path, found.settings, found.name) == (config.path, config.settings, config.name)
    assert config.model == {"dim": 3}
