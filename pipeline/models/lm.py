"""The Moshi language model: the tokens of one step in, the next text token and audio codes out.

Per step, the temporal transformer takes one text token and one token of each codebook of both
voices; the next text token is sampled from its output, and from both, codebook by codebook, the
depth transformer predicts the agent's next codes. Delays between codebooks are applied outside,
on the host (`pipeline.stages.delays`): a step takes tokens, not frames. The same step as a compiled
function: `compiled.lm`.
Source: Défossez et al. 2024, "Moshi", section 3.4; the arithmetic of the `moshi` package.
"""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx import nn
from mlx.utils import tree_flatten

from pipeline.errors import WeightsError
from pipeline.models.checkpoint.formats import read
from pipeline.models.checkpoint.lm_config import LmConfig
from pipeline.models.checkpoint.lm_key_map import detect_layout, lm_rules
from pipeline.models.checkpoint.loading import (
    COPIES,
    Assignment,
    Rule,
    TensorReader,
    Weight,
    load_parameters,
    match,
    stream_parameters,
)
from pipeline.models.checkpoint.lora import Lora
from pipeline.models.checkpoint.safetensors_header import Shape
from pipeline.models.depformer import Depformer, KVCache, sample_codes
from pipeline.models.evaluation import EvalSchedule
from pipeline.models.layers.attention import Lanes
from pipeline.models.layers.conditioning import ConditionProvider
from pipeline.models.layers.embedding import Embedding, FusedEmbedding, InputEmbedding
from pipeline.models.layers.fused_linear import FusedLinear
from pipeline.models.layers.linear import Linear, materialize
from pipeline.models.layers.norms import make_norm
from pipeline.models.layers.quantized import install
from pipeline.models.layers.transformer import RingKVCache, Transformer
from pipeline.models.sampling import BatchSampler, Sampler, SamplingBatch
from pipeline.models.sharding import ColumnParallelLinear, Shard, ShardRank, shard_layer

Tokens = npt.NDArray[np.int32]
NO_TOKEN = -1  # as input: no token; in a whole sequence: no prediction at this position


def delayed(codes: Tokens, delays: tuple[int, ...], initial: Tokens) -> Tokens:
    """`codes [B, K, T]` → `[B, K, 1 + T]`: codebook k shifted by its delay, preceded by `initial [K]`."""
    batch, codebooks, frames = codes.shape
    out = np.empty((batch, codebooks, 1 + frames), codes.dtype)
    for codebook, delay in enumerate(delays):
        out[:, codebook, : 1 + delay] = initial[codebook]
        out[:, codebook, 1 + delay :] = codes[:, codebook, : max(frames - delay, 0)]
    return out


def undelayed(logits: mx.array, delays: tuple[int, ...]) -> tuple[mx.array, npt.NDArray[np.bool_]]:
    """`logits [B, K, T, V]` shifted back by each codebook's delay and padded with NaN; and a mask."""
    batch, _, frames, vocabulary = logits.shape
    shifted = []
    mask = np.ones(logits.shape[:3], np.bool_)
    for codebook, delay in enumerate(delays):
        padding = mx.full((batch, min(delay, frames), vocabulary), mx.nan, logits.dtype)
        shifted.append(mx.concatenate([logits[:, codebook, delay:], padding], axis=1))
        mask[:, codebook, max(frames - delay, 0) :] = False
    return mx.stack(shifted, axis=1), mask


class Logits(NamedTuple):
    """Teacher-forced logits of a whole sequence, aligned with its codes; NaN where delays leave none.

    `text [B, 1, T, text_card_out]`, `audio [B, dep_q, T, card]` float32; the masks `[B, 1, T]`,
    `[B, dep_q, T]` are true where a prediction counts.
    """

    text: mx.array
    text_mask: npt.NDArray[np.bool_]
    audio: mx.array
    audio_mask: npt.NDArray[np.bool_]


def ring_bytes(assignments: Iterable[Assignment]) -> int:
    """Bytes of a number in the rings where weights are kept as stored: 4, and 2 if they are quantized.

    A quantized model was made to be computed with 16-bit rings; others give the official tokens in float32.
    """
    return 2 if any(each.quantization is not None for each in assignments) else 4


class LmStep(Protocol):
    """One step of a language model: `LmModel.step`, the compiled one, or the one that several ranks share."""

    def __call__(
        self,
        text: Tokens,
        audio: Tokens,
        state: RingKVCache,
        lanes: Lanes,
        sampling: SamplingBatch | None = None,
    ) -> tuple[mx.array, mx.array, RingKVCache]:
        """Advance the rows `lanes [w]` by one step.

        `text [w, 1]`, `audio [w, n_q, 1]`, delays already applied; −1 is no input. Without
        `sampling` every row is greedy. Returns the next text `[w]` and audio `[w, dep_q]` int32,
        possibly followed by rows of padding, and the new state. Evaluating the tokens evaluates
        the state; for that to happen in place, no reference to the old state may remain.
        """


class LmModel(nn.Module):
    """A Moshi of any size. Weights are immutable and shared; sessions are rows of its state.

    `cfg_coef` other than 1 is classifier-free guidance: every row of the state then has a second
    row with the null conditions, and logits are moved away from the second row's.
    """

    def __init__(self, config: LmConfig, cfg_coef: float = 1.0) -> None:
        super().__init__()
        if cfg_coef != 1 and not config.summed:
            raise ValueError("classifier-free guidance needs a model with conditions")
        self.config = c = config
        self.cfg_coef = cfg_coef
        narrow = c.depformer_low_rank_embeddings
        self.text_emb = Embedding(c.text_card + 1, c.dim, normed=c.norm_emb)
        self.emb = [Embedding(c.card + 1, c.dim, normed=c.norm_emb) for _ in range(c.n_q)]
        self.transformer = Transformer(c.transformer)
        self.out_norm = make_norm(c.norm, c.dim)
        self.text_linear = Linear(c.dim, c.text_vocabulary, bias=c.bias_proj)
        inputs = max(c.weight_sets) + 1 if c.depformer_multi_linear else 1
        self.depformer_in = [Linear(c.dim, c.depformer_dim, bias=False) for _ in range(inputs)]
        self.depformer_text_emb = Embedding(
            c.text_card + 1, c.depformer_dim, normed=c.norm_emb, low_rank=narrow
        )
        # No codebook follows the last one within a step, so it needs no embedding here.
        self.depformer_emb = [
            Embedding(c.card + 1, c.depformer_dim, normed=c.norm_emb, low_rank=narrow)
            for _ in range(c.dep_q - 1)
        ]
        self.depformer = Depformer(c)
        if c.depformer_norm is not None:
            self.depformer_norms = [make_norm(c.depformer_norm, c.depformer_dim) for _ in range(c.dep_q)]
        self.linears = [Linear(c.depformer_dim, c.card, bias=c.bias_proj) for _ in range(c.dep_q)]
        if c.conditioners:
            self.condition_provider = ConditionProvider(c.conditioners, c.summed, c.dim)
        self._shapes = {name: p.shape for name, p in dict(tree_flatten(self.parameters())).items()}
        self.dtype: mx.Dtype = (
            mx.float32
        )  # of what is computed, and of weights unless they are kept as stored
        self.ring_dtype: mx.Dtype = mx.float32
        self.embedding_kernel: InputEmbedding | None = None  # see `models.native`
        self._fuse_weights()

    def parameter_shapes(self) -> dict[str, Shape]:
        """Name and dense shape of every weight; nothing is computed."""
        return dict(self._shapes)

    def load_weights(  # type: ignore[override]
        self,
        path: Path,
        dtype: mx.Dtype = mx.float32,
        *,
        lora: Lora | None = None,
        keep_quantized: bool = False,
        keep_stored: bool = False,
        reader: TensorReader = COPIES,
        shard_rank: ShardRank | None = None,
    ) -> None:
        """Replace all weights by those of a checkpoint in any of the published layouts, with `lora` fused.

        Quantized weights are made dense unless `keep_quantized`; with `lora` always. With `keep_stored` every
        matrix stays as it is in the file, for kernels (`models.native`), and rings are as `ring_bytes` says;
        `reader` brings it into memory.
        With a `shard_rank`, only once and without `lora`, this rank's shard of the weights is kept.

        Raises:
            WeightsError: the file is no language model, or is damaged, or does not fill
                exactly these parameters (then `TensorMismatchError`); nothing was replaced.
        """
        header = read(path)
        rules = self._rules(path, header)
        shapes = self.parameter_shapes()
        assignments = match(path, header, shapes, rules) if keep_stored and lora is None else []
        if lora is not None:
            dense = dict(load_parameters(path, shapes, rules, dtype))
            lora.fuse(self.config, dense)
            install(self, dense.items())
        else:
            weights = stream_parameters(
                path,
                shapes,
                rules,
                dtype,
                keep_quantized=keep_quantized,
                keep_stored=keep_stored,
                reader=reader,
            )
            if shard_rank is not None:
                weights = self._shard(weights, shard_rank.shard)
            install(self, list(weights))  # read completely before any of it is installed
        self.dtype = self.ring_dtype = dtype
        if keep_stored and ring_bytes(assignments) == 2:
            self.ring_dtype = mx.bfloat16
        if shard_rank is not None:
            self._parallelize(shard_rank)
        # Kernels read each weight where it is.
        self._fuse_weights(fuse=not keep_stored)
        self._embedding.materialize()
        self._depformer_inputs.materialize()
        materialize(self)

    def check_weights(self, path: Path, lora: Lora | None = None) -> list[Assignment]:
        """Compare a checkpoint with the model by its header alone; returns what each tensor becomes.

        Raises what `load_weights` would.
        """
        header = read(path)
        assignments = match(path, header, self.parameter_shapes(), self._rules(path, header))
        if lora is not None:
            lora.check(self.config, self.parameter_shapes())
        return assignments

    def _shard(self, weights: Iterable[tuple[str, Weight]], shard: Shard) -> Iterator[tuple[str, Weight]]:
        """The `shard` of each parameter; a whole one is released before the next is read."""
        for name, weight in weights:
            part = shard.take(self.config, name, weight)
            del weight
            yield name, part

    def _parallelize(self, shard_rank: ShardRank) -> None:
        """Replace the layers whose weights are sharded by ones that exchange with the other ranks."""
        shard, group = shard_rank.shard, shard_rank.group
        layers = [*self.transformer.layers, *([] if shard.replicated_depformer else self.depformer.layers)]
        for layer in layers:
            shard_layer(layer, group)
        if shard.spec(self.config, "text_linear.weight") is not None:
            self["text_linear"] = ColumnParallelLinear(self.text_linear, group)
        if shard.spec(self.config, "linears.0.weight") is not None:
            self["linears"] = [ColumnParallelLinear(linear, group) for linear in self.linears]

    def _fuse_weights(self, *, fuse: bool = True) -> None:
        """Compute once what every step uses: sums of conditions, and weights that are applied together."""
        self._embedding = FusedEmbedding([self.text_emb, *self.emb], fuse=fuse)
        self._depformer_inputs = FusedLinear(self.depformer_in, fuse=fuse)
        self._conditions: tuple[mx.array, ...] = ()  # each [1, 1, D]; with guidance the null one is second
        if self.config.summed:
            sums = [self.condition_provider.condition()]
            if self.cfg_coef != 1:
                sums.append(self.condition_provider.null_condition())
            self._conditions = tuple(each.astype(self.dtype) for each in sums)
            mx.eval(self._conditions)

    def _rules(self, path: Path, names: Collection[str]) -> list[Rule]:
        if not any(name.startswith("transformer.layers.") for name in names):
            raise WeightsError(str(path), "not a Moshi language model: it has no transformer.layers")
        return lm_rules(self.config, detect_layout(names))

    @property
    def rows_per_session(self) -> int:
        """1, or 2 with guidance: the rows with the null conditions come after the rows of all sessions."""
        return 1 if self.cfg_coef == 1 else 2

    def state(self, rows: int) -> RingKVCache:
        """The state of `rows` sessions that have taken no step."""
        return self.transformer.state(rows * self.rows_per_session, self.ring_dtype)

    def reset(self, state: RingKVCache, row: int) -> RingKVCache:
        """The state with session `row` reset; the others are unchanged."""
        for each in self._rows(state, np.array([row], np.int32)).tolist():
            state = self.transformer.reset(state, each)
        return state

    def _rows(self, state: RingKVCache, lanes: Lanes) -> Lanes:
        """The rows of the state that belong to the sessions `lanes [w]`: `[w]`, or `[2w]` with guidance."""
        if self.cfg_coef == 1:
            return lanes
        return np.concatenate([lanes, lanes + np.int32(len(state.offsets) // 2)])

    def step(
        self,
        text: Tokens,
        audio: Tokens,
        state: RingKVCache,
        lanes: Lanes,
        sampling: SamplingBatch | None = None,
        *,
        schedule: EvalSchedule | None = None,
    ) -> tuple[mx.array, mx.array, RingKVCache]:
        """Advance the rows `lanes [w]` by one step; steps in sequence sample from `logits` of the whole.

        An `LmStep`; nothing is evaluated yet. `schedule` gets intermediate results a few dozen
        operations apart.
        """
        x = self._add_condition_sum(self._embed(self.input_tokens(text, audio)))  # [w or 2w, 1, D]
        context, state = self.transformer(x, state, self._rows(state, lanes), schedule)
        sampler = BatchSampler(
            sampling or SamplingBatch.greedy(len(lanes)), self.config.existing_text_padding_id
        )
        return *self.sample(context[:, 0], sampler, schedule), state

    def prefill(
        self, x: mx.array, state: RingKVCache, lane: int, schedule: EvalSchedule | None = None
    ) -> tuple[mx.array, RingKVCache]:
        """Advance row `lane` by the positions of `x [1, T, D]` in one pass, and sample nothing.

        `x` comes from `embed_inputs`, or is given. Returns the last position's context `[1, D]`, from which
        `sample` samples, and the new state. T steps one by one give the same.
        """
        context, state = self.transformer(x.astype(self.dtype), state, np.array([lane], np.int32), schedule)
        return context[:, -1], state

    def sample(
        self,
        context: mx.array,
        sampler: Sampler,
        schedule: EvalSchedule | None = None,
        *,
        codebooks: int | None = None,
    ) -> tuple[mx.array, mx.array]:
        """Sample text `[w]` and audio `[w, dep_q]` from `context [w, D]` (`[2w, D]` with guidance).

        `context` is the temporal transformer's output in this step. `codebooks`: how many, from the first.
        """
        count = self.config.dep_q if codebooks is None else codebooks
        kernel = self.depformer.kernel
        if kernel is not None and isinstance(sampler, BatchSampler):
            return kernel.sample(context, sampler.batch, count, self.cfg_coef)
        context = self.out_norm(context)
        text = sampler.text(self._apply_cfg(self.text_linear(context).astype(mx.float32)))
        inputs = self._depformer_inputs(context)

        def predict(codebook: int, token: mx.array, cache: list[KVCache]) -> tuple[mx.array, list[KVCache]]:
            previous = token if self.cfg_coef == 1 else mx.concatenate([token, token])
            embedded = self._depformer_embedding(codebook).embed_sampled(previous)
            x = inputs[self._weight_set(codebook)] + embedded
            logits, cache = self._depformer_step(codebook, x, cache, schedule)
            return self._apply_cfg(logits), cache

        codes = sample_codes(text, predict, sampler, count)
        return text.astype(mx.int32), codes.astype(mx.int32)

    def logits(self, codes: Tokens) -> Logits:
        """Teacher-forced logits of each token of `codes [B, 1 + n_q, T]`, given all before it.

        Row 0 of `codes` is text, and a column is a frame: delays are applied and undone here.
        """
        c = self.config
        batch, _, frames = codes.shape
        sequence = delayed(codes, c.delays, np.array([c.text_card] + [c.card] * c.n_q)).astype(np.int32)
        x = self._embed(self.input_tokens(sequence[:, 0, :-1], sequence[:, 1:, :-1]))
        targets = mx.array(sequence[:, :, 1:])
        if self._conditions:
            x = x + self._conditions[0]
        context = self.out_norm(self.transformer.forward(x))
        text = self.text_linear(context)[:, None]  # [B, 1, T, text_card_out]
        audio: list[mx.array] = []
        cache: list[KVCache] = []
        inputs = self._depformer_inputs(context.reshape(batch * frames, -1))  # every step is a row
        for codebook in range(c.dep_q):
            previous = self._depformer_embedding(codebook)(targets[:, codebook].reshape(-1))
            logits, cache = self._depformer_step(
                codebook, inputs[self._weight_set(codebook)] + previous, cache
            )
            audio.append(logits.reshape(batch, frames, -1))
        delays = c.delays[: 1 + c.dep_q]
        text, text_mask = undelayed(text.astype(mx.float32), delays[:1])
        predicted, audio_mask = undelayed(mx.stack(audio, axis=1), delays[1:])
        return Logits(
            text,
            text_mask & (codes[:, :1] != NO_TOKEN),
            predicted,
            audio_mask & (codes[:, 1 : 1 + c.dep_q] != NO_TOKEN),
        )

    def input_tokens(self, text: Tokens, audio: Tokens) -> Tokens:
        """`text [w, T]`, `audio [w, n_q, T]` → the model's input `[w, 1 + n_q, T]`."""
        if self.config.replaced_text_token is not None:
            replaced, replacement = self.config.replaced_text_token
            text = np.where(text == replaced, np.int32(replacement), text)
        return np.concatenate([text[:, None], audio], axis=1)

    def embed_inputs(self, inputs: mx.array) -> mx.array:
        """`inputs [w, 1 + n_q, 1]` on the device → `[w, 1, D]` (`[2w, 1, D]` with guidance), conditioned."""
        return self._add_condition_sum((self.embedding_kernel or self._embedding).embed_arrays(inputs))

    def _embed(self, inputs: Tokens) -> mx.array:
        """`inputs [w, 1 + n_q, T]` on the host → `[w, T, D]`."""
        return (self.embedding_kernel or self._embedding)(inputs)

    def _add_condition_sum(self, x: mx.array) -> mx.array:
        """Add the conditions to `x [w, T, D]`; with guidance → `[2w, T, D]`, the null conditions second."""
        conditioned = [x + condition for condition in self._conditions] or [x]
        return conditioned[0] if len(conditioned) == 1 else mx.concatenate(conditioned)

    def _apply_cfg(self, logits: mx.array) -> mx.array:
        """`[w, V]` unchanged; with guidance `[2w, V]` → `[w, V]`, moved away from the second half."""
        if self.cfg_coef == 1:
            return logits
        conditioned, null = mx.split(logits, 2)
        return null + (conditioned - null) * self.cfg_coef

    def _weight_set(self, codebook: int) -> int:
        """The index of the depformer's input projection for `codebook`."""
        return self.config.weight_sets[codebook] if self.config.depformer_multi_linear else 0

    def _depformer_embedding(self, codebook: int) -> Embedding:
        """The depformer's embedding of the token before `codebook`: text, or the previous codebook."""
        return self.depformer_text_emb if codebook == 0 else self.depformer_emb[codebook - 1]

    def _depformer_step(
        self, codebook: int, x: mx.array, cache: list[KVCache], schedule: EvalSchedule | None = None
    ) -> tuple[mx.array, list[KVCache]]:
        """Logits `[w, card]` float32 of `codebook` from `x [w, D]`, the context plus the token before."""
        x, cache = self.depformer.step(x, codebook, cache, schedule)
        if self.config.depformer_norm is not None:
            x = self.depformer_norms[codebook](x)
        return self.linears[codebook](x).astype(mx.float32), cache
