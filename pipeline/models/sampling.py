"""Samples tokens: each row by its own parameters and random numbers, independent of the other rows.

Random numbers are arguments: uniforms drawn on the host from a counter-based generator, so that
a session's step 17 uses the same numbers whenever, in whichever lane and beside whichever
sessions it runs. On the device a token is drawn by inverting the cumulative distribution,
which takes one uniform. Sampling inside a compiled function: `pipeline.models.compiled.sampling`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from pipeline.models.layers.activations import exponential
from pipeline.values import SamplingParams

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

# The text tokens that a repetition penalty looks back on in a packed batch: the default window,
# because the protocol does not let a session choose a longer one.
REPETITION_CONTEXT: Final = SamplingParams().repetition_window
NO_TOKEN: Final = -1  # pads a packed repetition context
_SEED_MASK = 2**64 - 1


def uniforms(seed: int, step: int, count: int) -> Floats:
    """`[count]` numbers in [0, 1), a function of seed and step alone (Philox, Salmon et al. 2011)."""
    key = np.array([seed & _SEED_MASK, step], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(count, np.float32)


@dataclass(frozen=True, slots=True)
class SamplingTensors:
    """Temperature and top-k of each of `w` rows: temperature 0 is greedy, `top_k` 0 is no limit."""

    temperature: Floats
    top_k: Ints

    @property
    def greedy(self) -> bool:
        """Whether every row is greedy, so that no random numbers are needed."""
        return not self.temperature.any()


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """How one step samples, on the host; every field has one row per row of the batch.

    `uniforms [w, 1 + dep_q]`: text first; None where all rows are greedy. `repetition_context`:
    per row, the text tokens that its `repetition_penalty` applies to.
    """

    text: SamplingTensors
    audio: SamplingTensors
    padding_bias: Floats
    repetition_penalty: Floats
    repetition_context: tuple[Ints, ...]
    uniforms: Floats | None

    @classmethod
    def of(
        cls,
        lanes: Sequence[SamplingParams],
        steps: Sequence[int],
        repetition_context: Sequence[Sequence[int]],
        dep_q: int,
        width: int | None = None,
    ) -> "SamplingBatch":
        """Rows for `lanes`, each at its own step and with its own repetition context.

        Rows beyond them, up to `width`, are padding, and greedy.
        """
        rows = len(lanes) if width is None else width

        def column(values: Sequence[float], fill: float = 0) -> npt.NDArray[np.float64]:
            return np.array([*values, *[fill] * (rows - len(lanes))], np.float64)

        def tensors(temperature: Sequence[float], top_k: Sequence[int]) -> SamplingTensors:
            return SamplingTensors(column(temperature).astype(np.float32), column(top_k).astype(np.int32))

        text = tensors([s.text_temperature for s in lanes], [s.text_top_k for s in lanes])
        audio = tensors([s.temperature for s in lanes], [s.top_k for s in lanes])
        numbers = None
        if not (text.greedy and audio.greedy):
            numbers = np.zeros((rows, 1 + dep_q), np.float32)
            for row, (sampling, step) in enumerate(zip(lanes, steps, strict=True)):
                numbers[row] = uniforms(sampling.seed, step, 1 + dep_q)
        contexts = [np.array(tokens, np.int32) for tokens in repetition_context]
        return cls(
            text,
            audio,
            column([s.padding_bias for s in lanes]).astype(np.float32),
            column([s.repetition_penalty for s in lanes], 1).astype(np.float32),
            (*contexts, *[np.empty(0, np.int32)] * (rows - len(lanes))),
            numbers,
        )

    @classmethod
    def greedy(cls, width: int) -> "SamplingBatch":
        """`width` greedy rows."""
        return cls.of((), (), (), 0, width)

    @staticmethod
    def packed_columns(dep_q: int) -> tuple[dict[str, int], dict[str, int]]:
        """Names and widths of the int32 and of the float32 columns that `pack` makes."""
        integers = {"text_top_k": 1, "audio_top_k": 1, "repetition_context": REPETITION_CONTEXT}
        floats = {
            "text_temperature": 1, "audio_temperature": 1, "padding_bias": 1, "repetition_penalty": 1,
            "uniforms": 1 + dep_q,
        }  # fmt: skip
        return integers, floats

    def pack(self, dep_q: int) -> dict[str, npt.NDArray[Any]]:
        """All columns by name, `[w]` or `[w, columns]`, of one size whatever the batch holds.

        Of a longer repetition context, the last `REPETITION_CONTEXT` tokens are kept.
        """
        contexts = np.full((len(self.repetition_context), REPETITION_CONTEXT), NO_TOKEN, np.int32)
        for row, tokens in zip(contexts, self.repetition_context, strict=True):
            row[: min(len(tokens), REPETITION_CONTEXT)] = tokens[-REPETITION_CONTEXT:]
        uniforms = self.uniforms
        if uniforms is None:
            uniforms = np.zeros((len(contexts), 1 + dep_q), np.float32)
        return {
            "text_top_k": self.text.top_k,
            "audio_top_k": self.audio.top_k,
            "repetition_context": contexts,
            "text_temperature": self.text.temperature,
            "audio_temperature": self.audio.temperature,
            "padding_bias": self.padding_bias,
            "repetition_penalty": self.repetition_penalty,
            "uniforms": uniforms,
        }

    @classmethod
    def unpack(cls, columns: Mapping[str, npt.NDArray[Any]]) -> "SamplingBatch":
        """The batch that `pack` made `columns` of."""
        text = SamplingTensors(columns["text_temperature"], columns["text_top_k"])
        audio = SamplingTensors(columns["audio_temperature"], columns["audio_top_k"])
        return cls(
            text,
            audio,
            columns["padding_bias"],
            columns["repetition_penalty"],
            tuple(tokens[tokens != NO_TOKEN] for tokens in columns["repetition_context"]),
            None if text.greedy and audio.greedy else columns["uniforms"],
        )


class Sampler(Protocol):
    """Turns the logits of one step into its tokens."""

    def text(self, logits: mx.array) -> mx.array:
        """`[w, V]` → `[w]` integers."""

    def audio(self, logits: mx.array, codebook: int) -> mx.array:
        """The same, of one codebook."""


@dataclass(frozen=True, slots=True)
class TopKFilter:
    """Top-k limits of the rows of a batch, for one size of vocabulary.

    `max_k`: the largest k. `ranks [w, 1]`: where each row's limit lies among the `max_k` best, the
    worst first; None where all limited rows have the same k. `limited [w, 1]`: the rows that have
    a limit; None where all have one.
    """

    max_k: int
    ranks: mx.array | None
    limited: mx.array | None

    @classmethod
    def of(cls, top_k: Ints, vocabulary: int) -> "TopKFilter | None":
        """The filter of `top_k [w]`; None where no row has a limit."""
        limited = (top_k > 0) & (top_k < vocabulary)
        if not limited.any():
            return None
        limits = np.unique(top_k[limited])
        max_k = int(limits[-1])
        ranks = (max_k - np.where(limited, top_k, 1)).astype(np.int32)[:, None]
        return cls(
            max_k,
            None if len(limits) == 1 else mx.array(ranks),
            None if limited.all() else mx.array(limited[:, None]),
        )

    def threshold(self, logits: mx.array) -> mx.array:
        """The smallest of `logits [w, V]` that its row keeps, `[w, 1]`.

        It depends on the row itself only, whatever the limits of the others.
        """
        if self.ranks is None:
            least = logits.shape[-1] - self.max_k
            threshold = mx.partition(logits, least, axis=-1)[:, least : least + 1]
        else:
            best = mx.sort(mx.topk(logits, self.max_k, axis=-1), axis=-1)  # [w, max_k], the best last
            threshold = mx.take_along_axis(best, self.ranks, axis=-1)
        return threshold if self.limited is None else mx.where(self.limited, threshold, -mx.inf)


class TokenSampler:
    """Samples tokens by one `SamplingTensors`; what all codebooks share is computed once."""

    def __init__(self, tensors: SamplingTensors) -> None:
        self._greedy = tensors.greedy
        if self._greedy:
            return
        random = tensors.temperature > 0
        self._random = None if random.all() else mx.array(random)
        # A greedy row takes the limit of another row, so that it does not count as one more limit.
        self._top_k = np.where(random, tensors.top_k, tensors.top_k[random][0])
        self._temperature = mx.array(np.where(random, tensors.temperature, 1)[:, None])
        self._filters: dict[int, TopKFilter | None] = {}  # by size of the vocabulary

    def sample(self, logits: mx.array, uniform: mx.array | None) -> mx.array:
        """One token for each row of `logits [w, V]`, by `uniform [w, 1]` → `[w]` integers.

        Tokens that tie with the k-th best are all kept. A row's token depends on its own row of
        the arguments only, bit for bit.
        """
        if self._greedy:
            return mx.argmax(logits, axis=-1)
        assert uniform is not None
        logits = logits.astype(mx.float32)
        # The best logit is subtracted first: divided by a tiny temperature, both would be infinite.
        relative = logits - logits.max(axis=-1, keepdims=True)
        weights = exponential(relative / self._temperature)  # probabilities, not normalized
        top_k = self._filter(logits.shape[-1])
        if top_k is not None:
            weights = weights * (logits >= top_k.threshold(logits))  # a select takes ten times as long
        cumulative = mx.cumsum(weights, axis=-1)
        # A parallel prefix sum may decrease from one entry to the next; impossible tokens are zeroed.
        cumulative = cumulative * (weights > 0)
        target = uniform * cumulative.max(axis=-1, keepdims=True)
        sampled = mx.argmax(cumulative > target, axis=-1)
        return (
            sampled if self._random is None else mx.where(self._random, sampled, mx.argmax(logits, axis=-1))
        )

    def _filter(self, vocabulary: int) -> TopKFilter | None:
        if vocabulary not in self._filters:
            self._filters[vocabulary] = TopKFilter.of(self._top_k, vocabulary)
        return self._filters[vocabulary]


class BatchSampler:
    """Samples by a `SamplingBatch`; parameters that no row uses take no operations.

    A kernel looks at the `batch` instead (`models.native`), and then nothing is computed here.
    """

    def __init__(self, batch: SamplingBatch, padding_id: int) -> None:
        self.batch = batch
        self._padding_id = padding_id

    @cached_property
    def _text(self) -> TokenSampler:
        return TokenSampler(self.batch.text)

    @cached_property
    def _audio(self) -> TokenSampler:
        return TokenSampler(self.batch.audio)

    @cached_property
    def _uniforms(self) -> Sequence[mx.array] | None:
        """Each `[w, 1]`; None where all rows are greedy."""
        uniforms = self.batch.uniforms
        return None if uniforms is None else tuple(mx.split(mx.array(uniforms), uniforms.shape[1], axis=1))

    def text(self, logits: mx.array) -> mx.array:
        """`[w, V]` → `[w]` integers."""
        return self._text.sample(process_text_logits(logits, self.batch, self._padding_id), self._uniform(0))

    def audio(self, logits: mx.array, codebook: int) -> mx.array:
        """The same, of one codebook."""
        return self._audio.sample(logits, self._uniform(1 + codebook))

    def _uniform(self, index: int) -> mx.array | None:
        return None if self._uniforms is None else self._uniforms[index]


def process_text_logits(logits: mx.array, batch: SamplingBatch, padding_id: int) -> mx.array:
    """Text `logits [w, V]` with repetition penalty and padding bias; rows without either are unchanged."""
    penalty = batch.repetition_penalty
    if (penalty != 1).any():
        repeated = np.zeros(logits.shape, np.bool_)
        for row, tokens in enumerate(batch.repetition_context):
            repeated[row, tokens] = True
        factor = mx.array(penalty[:, None])
        penalised = mx.where(logits > 0, logits / factor, logits * factor)
        logits = mx.where(mx.array(repeated & (penalty != 1)[:, None]), penalised, logits)
    if batch.padding_bias.any():
        padding = np.arange(logits.shape[-1]) == padding_id
        bias = mx.array(batch.padding_bias[:, None])
        logits = mx.where(mx.array(padding[None]), logits + bias, logits)
    return logits
