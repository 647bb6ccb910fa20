"""A whole checkpoint of PersonaPlex's layout with tiny sizes: goldens' weights, codec, tokenizer, voices."""

import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from pipeline.models import random_init
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.checkpoint.mimi_config import parse_mimi_config
from pipeline.models.checkpoint.voices import read_published_voice
from pipeline.models.lm import LmModel
from pipeline.stages.stepper import StepperStage
from pipeline.stages.text import TokenIds, UtteranceRules
from pipeline.values import Prompt, Voice
from support.checkpoints import MIMI

GOLDENS = Path(__file__).parents[1] / "data" / "families" / "personaplex_prompts"
RULES = UtteranceRules(padding=frozenset({0, 3}), padding_run=13, max_steps=750)
CODEC = {**MIMI, "quantizer": {**MIMI["quantizer"], "n_q": 8, "bins": 2048}}
TEXT = (
    "be kind",
    "you are a wise and friendly teacher",
    "answer questions in a quick jovial way, not zealously",
)


def golden_model() -> LmModel:
    """The model of the goldens."""
    model = LmModel(parse_lm_config(json.loads((GOLDENS / "config.json").read_text())))
    model.load_weights(GOLDENS / "model.safetensors")
    return model


def golden_stepper(model: LmModel, lanes: int = 4, **options: Any) -> StepperStage:
    """A stage of the model of the goldens."""
    return StepperStage(model, lanes, TokenIds(), RULES, **options)


def golden_prompt(run: str) -> Prompt:
    """The prompt of one of the goldens' runs."""
    with np.load(GOLDENS / "prompts.npz") as arrays:
        codes, role = arrays["voice"].astype(np.int32), tuple(arrays["role"].tolist())
    voice = None
    if run.startswith("voice"):
        voice = Voice(codes=codes)
    elif run.startswith("file"):
        voice = read_published_voice(GOLDENS / "voice.pt")
    return Prompt(run, voice, role if "role" in run else ())


def write_persona_folder(folder: Path, *, settings: Mapping[str, Any] | None = None, seed: int = 1) -> Path:
    """The voice NATF0 is that of the goldens; the tokenizer has as many pieces as the model."""
    config = json.loads((GOLDENS / "config.json").read_text())
    config |= {
        "moshi_name": "model.safetensors",
        "mimi_name": "mimi.safetensors",
        "mimi_config_name": "mimi_config.json",
        "tokenizer_name": "tokenizer.model",
        "pipeline": dict(settings or {}),
    }
    shutil.copyfile(GOLDENS / "model.safetensors", folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mimi_config.json").write_text(json.dumps(CODEC))
    tensors = random_init.mimi_tensors(parse_mimi_config(CODEC))
    random_init.write_checkpoint(folder / "mimi.safetensors", tensors, seed)
    write_tokenizer(folder / "tokenizer.model", config["text_card"])
    write_archive(folder / "voices.tgz", {"voices/NATF0.pt": (GOLDENS / "voice.pt").read_bytes()})
    return folder


def write_tokenizer(path: Path, pieces: int) -> None:
    """A SentencePiece model with so many pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 8),
        model_writer=model,
        vocab_size=pieces,
        model_type="bpe",
        user_defined_symbols="<system>",
        pad_id=3,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


def write_archive(path: Path, members: Mapping[str, bytes]) -> Path:
    """A `.tgz` with these members."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
