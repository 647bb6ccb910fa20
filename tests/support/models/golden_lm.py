"""Steps a language model through the official implementation's input, and compares every token."""

import json
from pathlib import Path

import numpy as np

from pipeline.kernels.library import Library
from pipeline.models.checkpoint.lm_config import LmConfig, parse_lm_config
from pipeline.models.checkpoint.lora import Lora
from pipeline.models.lm import LmModel
from pipeline.models.native import attach_lm
from pipeline.stages.delays import DelayedTokenCache, DelayPattern

DATA = Path(__file__).parents[2] / "data"


def config_of(folder: Path) -> LmConfig:
    return parse_lm_config(json.loads((folder / "config.json").read_text()))


def agree(
    folder: Path,
    checkpoint: Path,
    trace: str = "trace.npz",
    cfg_coef: float = 1.0,
    *,
    lora: Lora | None = None,
    kernels: Library | None = None,
) -> None:
    """Step through the golden's user codes, and compare every token of every step."""
    config = config_of(folder)
    model = LmModel(config, cfg_coef)
    model.check_weights(checkpoint, lora)
    model.load_weights(checkpoint, lora=lora, keep_stored=kernels is not None)
    if kernels is not None:
        attach_lm(model, kernels)
    golden = np.load(folder / trace)
    steps = len(golden["user"])
    assert steps >= 5 * config.context
    results = speak(model, golden["user"])
    for name, ours in zip(("text", "audio"), results[:2], strict=True):
        differ = np.flatnonzero((ours != golden[name]).reshape(steps, -1).any(axis=1))
        assert not differ.size, f"{name} of step {differ[0]}"
    np.testing.assert_array_equal(results[2], golden["out"][:, 1:])


def speak(model: LmModel, user: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Greedily: text `[T]` and audio `[T, dep_q]` of each step, and the whole frames `[T - d, dep_q]`."""
    c = model.config
    tokens = DelayedTokenCache(DelayPattern(c.delays, c.dep_q, c.text_card, c.card), 1)
    state = model.state(1)
    lanes = np.zeros(1, np.int32)
    text, audio, out = [], [], []
    for frame in user:
        given = tokens.read(lanes, frame[None].astype(np.int32))
        drawn_text, drawn_audio, state = model.step(given[:, :1], given[:, 1:, None], state, lanes)
        text.append(np.array(drawn_text))
        audio.append(np.array(drawn_audio))
        out += [codes for codes in tokens.push(lanes, text[-1], audio[-1]) if codes is not None]
    return np.concatenate(text), np.concatenate(audio), np.array(out)
