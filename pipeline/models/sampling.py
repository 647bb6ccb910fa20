"""Draws tokens: each row by its own settings and its own random numbers, untouched by the others.

The randomness comes in from outside, as uniform numbers drawn on the host from a counter:
a session's step 17 uses the same numbers whenever, wherever and beside whomever it runs.
On the device a draw is the inverse of a cumulative distribution, so one uniform is enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from pipeline.values import Sampling

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

_SEED_MASK = 2**64 - 1


def uniforms(seed: int, step: int, count: int) -> Floats:
    """`[count]` in [0, 1), a function of the seed and the step alone (Philox, Salmon et al. 2011)."""
    key = np.array([seed & _SEED_MASK, step], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(count, np.float32)


@dataclass(frozen=True, slots=True)
class Choice:
    """How one token is drawn in each of `w` rows: temperature 0 is greedy, `top_k` 0 no limit."""

    temperature: Floats
    top_k: Ints

    @property
    def greedy(self) -> bool:
        """Whether no row needs a random number."""
        return not self.temperature.any()


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """How one step draws, on the host: a row of everything per row of the batch.

    `uniforms [w, 1 + dep_q]`: text first; None where nothing is drawn. `recent`: per row,
    the text tokens that its `repetition_penalty` is for.
    """

    text: Choice
    audio: Choice
    padding_bias: Floats
    repetition_penalty: Floats
    recent: tuple[Ints, ...]
    uniforms: Floats | None

    @classmethod
    def of(
        cls,
        lanes: Sequence[Sampling],
        steps: Sequence[int],
        recent: Sequence[Sequence[int]],
        dep_q: int,
        width: int | None = None,
    ) -> "SamplingBatch":
        """Rows for `lanes`, each in its own `step` and with its `recent` text tokens.

        Rows beyond them, up to `width`, are greedy: they belong to nobody.
        """
        rows = len(lanes) if width is None else width

        def column(values: Sequence[float], fill: float = 0) -> npt.NDArray[np.float64]:
            return np.array([*values, *[fill] * (rows - len(lanes))], np.float64)

        def choice(temperature: Sequence[float], top_k: Sequence[int]) -> Choice:
            return Choice(column(temperature).astype(np.float32), column(top_k).astype(np.int32))

        text = choice([s.text_temperature for s in lanes], [s.text_top_k for s in lanes])
        audio = choice([s.temperature for s in lanes], [s.top_k for s in lanes])
        drawn = None
        if not (text.greedy and audio.greedy):
            drawn = np.zeros((rows, 1 + dep_q), np.float32)
            for row, (sampling, step) in enumerate(zip(lanes, steps, strict=True)):
                drawn[row] = uniforms(sampling.seed, step, 1 + dep_q)
        heard = [np.array(tokens, np.int32) for tokens in recent]
        return cls(
            text,
            audio,
            column([s.padding_bias for s in lanes]).astype(np.float32),
            column([s.repetition_penalty for s in lanes], 1).astype(np.float32),
            (*heard, *[np.empty(0, np.int32)] * (rows - len(lanes))),
            drawn,
        )

    @classmethod
    def greedy(cls, width: int) -> "SamplingBatch":
        """`width` rows that take the likeliest token each."""
        return cls.of((), (), (), 0, width)


class Drawing(Protocol):
    """What turns the logits of one step into its tokens."""

    def text(self, logits: mx.array) -> mx.array:
        """`[w, V]` → `[w]` integers."""

    def audio(self, logits: mx.array, codebook: int) -> mx.array:
        """The same, of one codebook."""


class BatchDrawing:
    """Draws as a batch on the host says; where nobody asks for a thing, no operation is spent on it."""

    def __init__(self, batch: SamplingBatch, padding_id: int) -> None:
        self._batch = batch
        self._padding_id = padding_id
        self._numbers = None if batch.uniforms is None else mx.array(batch.uniforms)

    def text(self, logits: mx.array) -> mx.array:
        """`[w, V]` → `[w]` integers."""
        return draw(shape_text(logits, self._batch, self._padding_id), self._batch.text, self._number(0))

    def audio(self, logits: mx.array, codebook: int) -> mx.array:
        """The same, of one codebook."""
        return draw(logits, self._batch.audio, self._number(1 + codebook))

    def _number(self, index: int) -> mx.array | None:
        return None if self._numbers is None else self._numbers[:, index]


def draw(logits: mx.array, choice: Choice, uniform: mx.array | None) -> mx.array:
    """One token for each row of `logits [w, V]`, with `uniform [w]` → `[w]` integers.

    Tokens that tie with the k-th best are all kept. A row's token depends on its own row
    of the arguments only, bit for bit.
    """
    if choice.greedy:
        return mx.argmax(logits, axis=-1)
    assert uniform is not None
    logits = logits.astype(mx.float32)
    drawing = choice.temperature > 0
    # A row that does not draw keeps what its neighbours keep, lest it be a case of its own.
    threshold = _threshold(logits, np.where(drawing, choice.top_k, choice.top_k[drawing][0]))
    kept = logits if threshold is None else mx.where(logits >= threshold, logits, -mx.inf)
    # Against the best first: divided by a tiny temperature, both would be infinite.
    temperature = mx.array(np.where(drawing, choice.temperature, 1))[:, None]
    likelihood = mx.softmax((kept - logits.max(axis=-1, keepdims=True)) / temperature, axis=-1)
    cumulative = mx.cumsum(likelihood, axis=-1)
    # A parallel sum need not grow from one entry to the next: only what can be drawn is asked.
    cumulative = mx.where(likelihood > 0, cumulative, 0)
    target = uniform[:, None] * cumulative.max(axis=-1, keepdims=True)
    drawn = mx.argmax(cumulative > target, axis=-1)
    return drawn if drawing.all() else mx.where(mx.array(drawing), drawn, mx.argmax(logits, axis=-1))


def _threshold(logits: mx.array, top_k: Ints) -> mx.array | None:
    """The least of `logits [w, V]` that is among its row's `top_k [w]` best; None where all rows keep all.

    It is a number of the row itself, the same however many the others keep.
    """
    vocabulary = logits.shape[-1]
    limited = (top_k > 0) & (top_k < vocabulary)
    if not limited.any():
        return None
    ranks = np.unique(top_k[limited])
    if len(ranks) == 1:
        least = vocabulary - int(ranks[0])
        threshold = mx.partition(logits, least, axis=-1)[:, least : least + 1]
    else:
        most = int(ranks[-1])
        best = mx.sort(mx.topk(logits, most, axis=-1), axis=-1)  # [w, most], the best last
        at = most - np.where(limited, top_k, 1)
        threshold = mx.take_along_axis(best, mx.array(at[:, None].astype(np.int32)), axis=-1)
    return threshold if limited.all() else mx.where(mx.array(limited[:, None]), threshold, -mx.inf)


def shape_text(logits: mx.array, batch: SamplingBatch, padding_id: int) -> mx.array:
    """Apply penalty and bias to text `logits [w, V]`; rows that have neither are unchanged."""
    penalty = batch.repetition_penalty
    if (penalty != 1).any():
        heard = np.zeros(logits.shape, np.bool_)
        for row, tokens in enumerate(batch.recent):
            heard[row, tokens] = True
        by = mx.array(penalty[:, None])
        penalised = mx.where(logits > 0, logits / by, logits * by)
        logits = mx.where(mx.array(heard & (penalty != 1)[:, None]), penalised, logits)
    if batch.padding_bias.any():
        padding = np.arange(logits.shape[-1]) == padding_id
        bias = mx.array(batch.padding_bias[:, None])
        logits = mx.where(mx.array(padding[None]), logits + bias, logits)
    return logits
