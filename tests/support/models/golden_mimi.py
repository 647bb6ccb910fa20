"""A small Mimi and what the official package made of it; written by `tests/goldens/mimi_goldens.py`."""

import functools
import json
from pathlib import Path

import mlx.core as mx
import numpy as np

from pipeline.models.checkpoint.mimi_config import MimiConfig, parse_mimi_config
from pipeline.models.mimi import Mimi, MimiState

FOLDER = Path(__file__).parents[2] / "data" / "mimi_golden"
CHECKPOINT = FOLDER / "model.safetensors"
CODEBOOKS = 6
FRAMES = 24


@functools.cache
def config() -> MimiConfig:
    return parse_mimi_config(json.loads((FOLDER / "mimi_config.json").read_text()))


@functools.cache
def mimi() -> Mimi:
    model = Mimi(config(), CODEBOOKS)
    model.load_weights(CHECKPOINT)
    return model


@functools.cache
def golden() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User pcm `[T, 1, 1920]`, codes `[T, K, 1]`, agent pcm `[T, 1, 1920]`."""
    with np.load(FOLDER / "golden.npz") as data:
        user_pcm = data["user_pcm"].astype(np.float32).reshape(FRAMES, 1, -1) / 128
        agent_pcm = data["agent_pcm"].astype(np.float32).reshape(FRAMES, 1, -1) / 32768
        return user_pcm, data["codes"].T[:, :, None].copy(), agent_pcm


def encode(pcm: np.ndarray, state: MimiState, lanes: list[int]) -> tuple[np.ndarray, MimiState]:
    codes, state = mimi().encode(mx.array(pcm), state, np.array(lanes, np.int32))
    return np.array(codes), state


def decode(codes: np.ndarray, state: MimiState, lanes: list[int]) -> tuple[np.ndarray, MimiState]:
    pcm, state = mimi().decode(mx.array(codes), state, np.array(lanes, np.int32))
    return np.array(pcm), state


def rows_of(state: MimiState, row: int) -> list[np.ndarray]:
    """Everything a state holds for one row."""
    arrays = [state.conv_state, *state.kv_cache.keys, *state.kv_cache.values]
    return [np.array(a[row]) for a in arrays] + [state.kv_cache.offsets[row].copy()]
