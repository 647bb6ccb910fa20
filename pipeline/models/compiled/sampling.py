"""Draws tokens inside a compiled graph: every setting of every row is a number in an array.

The same tokens as `sampling` draws, by the same numbers. There the host looks at the settings
and leaves out what nobody asked for; a graph cannot look, and does everything, always.
"""

from collections.abc import Mapping
from typing import Final

import mlx.core as mx
import numpy as np

from pipeline.models.compiled.inputs import Numbers
from pipeline.models.sampling import SamplingBatch
from pipeline.values import Sampling

RECENT: Final = Sampling().repetition_window  # the text tokens that a penalty looks back on
_NO_TOKEN: Final = -1


def sampling_columns(dep_q: int) -> tuple[dict[str, int], dict[str, int]]:
    """What settings and numbers take in a layout: integers, and floats."""
    integers = {"text_top_k": 1, "audio_top_k": 1, "recent": RECENT}
    floats = {"text_temperature": 1, "audio_temperature": 1, "bias": 1, "penalty": 1, "uniforms": 1 + dep_q}
    return integers, floats


def sampling_values(batch: SamplingBatch, dep_q: int) -> dict[str, Numbers]:
    """The rows of `batch`; of a row's recent tokens, the last `RECENT`."""
    recent = np.full((len(batch.recent), RECENT), _NO_TOKEN, np.int32)
    for row, tokens in zip(recent, batch.recent, strict=True):
        row[: min(len(tokens), RECENT)] = tokens[-RECENT:]
    uniforms = batch.uniforms
    if uniforms is None:
        uniforms = np.zeros((len(recent), 1 + dep_q), np.float32)
    return {
        "text_top_k": batch.text.top_k,
        "audio_top_k": batch.audio.top_k,
        "recent": recent,
        "text_temperature": batch.text.temperature,
        "audio_temperature": batch.audio.temperature,
        "bias": batch.padding_bias,
        "penalty": batch.repetition_penalty,
        "uniforms": uniforms,
    }


class ArrayDrawing:
    """Draws as `told`, what `sampling_values` was packed from, says: each `[w, columns]`."""

    def __init__(self, told: Mapping[str, mx.array], padding_id: int) -> None:
        self._told = told
        self._padding_id = padding_id

    def text(self, logits: mx.array) -> mx.array:
        """`[w, V]` → `[w]` integers."""
        told = self._told
        return self._draw(self._shaped(logits), told["text_temperature"], told["text_top_k"], 0)

    def audio(self, logits: mx.array, codebook: int) -> mx.array:
        """The same, of one codebook."""
        told = self._told
        return self._draw(logits, told["audio_temperature"], told["audio_top_k"], 1 + codebook)

    def _shaped(self, logits: mx.array) -> mx.array:
        """Text `logits [w, V]` with penalty and bias; rows that have neither are unchanged."""
        recent, penalty = self._told["recent"], self._told["penalty"]
        width, vocabulary = logits.shape
        # One place more than tokens, for those that are none.
        at = mx.where(recent < 0, vocabulary, recent)
        nothing = mx.zeros((width, vocabulary + 1), mx.int32)
        marked = mx.put_along_axis(nothing, at, mx.array(1, mx.int32), axis=1)[:, :vocabulary] > 0
        penalised = mx.where(logits > 0, logits / penalty, logits * penalty)
        logits = mx.where(marked & (penalty != 1), penalised, logits)
        padding = mx.arange(vocabulary) == self._padding_id
        return mx.where(padding, logits + self._told["bias"], logits)

    def _draw(self, logits: mx.array, temperature: mx.array, top_k: mx.array, number: int) -> mx.array:
        """One token for each row of `logits [w, V]` by `temperature, top_k [w, 1]` → `[w]`."""
        logits = logits.astype(mx.float32)
        vocabulary = logits.shape[-1]
        limited = (top_k > 0) & (top_k < vocabulary)
        at = mx.where(limited, vocabulary - top_k, 0)  # the least of all keeps all
        threshold = mx.take_along_axis(mx.sort(logits, axis=-1), at, axis=-1)
        kept = mx.where(logits >= threshold, logits, -mx.inf)
        drawing = temperature > 0
        against_best = (kept - logits.max(axis=-1, keepdims=True)) / mx.where(drawing, temperature, 1)
        likelihood = mx.softmax(against_best, axis=-1)
        # A parallel sum need not grow from one entry to the next: only what can be drawn is asked.
        cumulative = mx.where(likelihood > 0, mx.cumsum(likelihood, axis=-1), 0)
        uniform = self._told["uniforms"][:, number : number + 1]
        drawn = mx.argmax(cumulative > uniform * cumulative.max(axis=-1, keepdims=True), axis=-1)
        return mx.where(drawing[:, 0], drawn, mx.argmax(logits, axis=-1))
