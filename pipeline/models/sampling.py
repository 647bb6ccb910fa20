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

from pipeline.models.layers.activations import exponential
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


@dataclass(frozen=True, slots=True)
class Limit:
    """How many of a vocabulary's tokens the rows keep: of the `most` best, those from `places` on.

    `places [w, 1]`: None where all rows with a limit have the same. `limited [w, 1]`: which rows
    have one; None where all have.
    """

    most: int
    places: mx.array | None
    limited: mx.array | None

    @classmethod
    def of(cls, top_k: Ints, vocabulary: int) -> "Limit | None":
        """Of `top_k [w]`; None where all rows keep all."""
        limited = (top_k > 0) & (top_k < vocabulary)
        if not limited.any():
            return None
        ranks = np.unique(top_k[limited])
        most = int(ranks[-1])
        at = (most - np.where(limited, top_k, 1)).astype(np.int32)[:, None]
        return cls(
            most,
            None if len(ranks) == 1 else mx.array(at),
            None if limited.all() else mx.array(limited[:, None]),
        )

    def threshold(self, logits: mx.array) -> mx.array:
        """The least of `logits [w, V]` that its row keeps, `[w, 1]`.

        It is a number of the row itself, the same however many the others keep.
        """
        if self.places is None:
            least = logits.shape[-1] - self.most
            threshold = mx.partition(logits, least, axis=-1)[:, least : least + 1]
        else:
            best = mx.sort(mx.topk(logits, self.most, axis=-1), axis=-1)  # [w, most], the best last
            threshold = mx.take_along_axis(best, self.places, axis=-1)
        return threshold if self.limited is None else mx.where(self.limited, threshold, -mx.inf)


class Dice:
    """Draws tokens by one `Choice`; what is the same in every draw is worked out once."""

    def __init__(self, choice: Choice) -> None:
        self._greedy = choice.greedy
        if self._greedy:
            return
        drawing = choice.temperature > 0
        self._drawing = None if drawing.all() else mx.array(drawing)
        # A row that does not draw keeps what its neighbours keep, lest it be a case of its own.
        self._top_k = np.where(drawing, choice.top_k, choice.top_k[drawing][0])
        self._temperature = mx.array(np.where(drawing, choice.temperature, 1)[:, None])
        self._limits: dict[int, Limit | None] = {}  # by vocabulary

    def draw(self, logits: mx.array, uniform: mx.array | None) -> mx.array:
        """One token for each row of `logits [w, V]`, with `uniform [w, 1]` → `[w]` integers.

        Tokens that tie with the k-th best are all kept. A row's token depends on its own row
        of the arguments only, bit for bit.
        """
        if self._greedy:
            return mx.argmax(logits, axis=-1)
        assert uniform is not None
        logits = logits.astype(mx.float32)
        # Against the best first: divided by a tiny temperature, both would be infinite.
        against = logits - logits.max(axis=-1, keepdims=True)
        likelihood = exponential(against / self._temperature)  # as yet a multiple of it
        limit = self._limit(logits.shape[-1])
        if limit is not None:
            likelihood = likelihood * (logits >= limit.threshold(logits))  # a select takes ten times as long
        cumulative = mx.cumsum(likelihood, axis=-1)
        # A parallel sum need not grow from one entry to the next: only what can be drawn is asked.
        cumulative = cumulative * (likelihood > 0)
        target = uniform * cumulative.max(axis=-1, keepdims=True)
        drawn = mx.argmax(cumulative > target, axis=-1)
        return drawn if self._drawing is None else mx.where(self._drawing, drawn, mx.argmax(logits, axis=-1))

    def _limit(self, vocabulary: int) -> Limit | None:
        if vocabulary not in self._limits:
            self._limits[vocabulary] = Limit.of(self._top_k, vocabulary)
        return self._limits[vocabulary]


class BatchDrawing:
    """Draws as a batch on the host says; where nobody asks for a thing, no operation is spent on it."""

    def __init__(self, batch: SamplingBatch, padding_id: int) -> None:
        self._batch = batch
        self._padding_id = padding_id
        self._text, self._audio = Dice(batch.text), Dice(batch.audio)
        drawn = batch.uniforms
        # Each [w, 1].
        self._numbers = None if drawn is None else mx.split(mx.array(drawn), drawn.shape[1], axis=1)

    def text(self, logits: mx.array) -> mx.array:
        """`[w, V]` → `[w]` integers."""
        return self._text.draw(shape_text(logits, self._batch, self._padding_id), self._number(0))

    def audio(self, logits: mx.array, codebook: int) -> mx.array:
        """The same, of one codebook."""
        return self._audio.draw(logits, self._number(1 + codebook))

    def _number(self, index: int) -> mx.array | None:
        return None if self._numbers is None else self._numbers[index]


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
