"""The Moshi language model: what was said, in, the next text token and the next codes, out.

Per step, the temporal transformer takes in one text token and one token of each codebook
of both voices; from what it makes of them comes a text token, and from both, codebook by
codebook, the agent's next codes. Delays between codebooks are applied outside, on the
host (`pipeline.stages.delays`): a step sees tokens, not frames.
Source: Défossez et al. 2024, "Moshi", section 3.4; the arithmetic of the `moshi` package.
"""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

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
    Assignment,
    Rule,
    Weight,
    load_parameters,
    match,
    stream_parameters,
)
from pipeline.models.checkpoint.lora import Lora
from pipeline.models.checkpoint.safetensors_header import Shape
from pipeline.models.depformer import Depformer, Past
from pipeline.models.layers.attention import Lanes
from pipeline.models.layers.conditioning import Conditions
from pipeline.models.layers.embedding import Embedding, Hearing
from pipeline.models.layers.fused_linear import Products
from pipeline.models.layers.linear import Linear, settle
from pipeline.models.layers.norms import make_norm
from pipeline.models.layers.quantized import install
from pipeline.models.layers.transformer import Transformer, TransformerState
from pipeline.models.sampling import BatchDrawing, Drawing, SamplingBatch
from pipeline.models.sharding import GatheredLinear, Member, Share, deal_layer

Tokens = npt.NDArray[np.int32]
NO_TOKEN = -1  # as input: nothing was said; in a whole sequence: nothing is predicted here


def delayed(codes: Tokens, delays: tuple[int, ...], initial: Tokens) -> Tokens:
    """`codes [B, K, T]` → `[B, K, 1 + T]`: codebook k later by its delay, `initial [K]` before it."""
    batch, codebooks, frames = codes.shape
    out = np.empty((batch, codebooks, 1 + frames), codes.dtype)
    for codebook, delay in enumerate(delays):
        out[:, codebook, : 1 + delay] = initial[codebook]
        out[:, codebook, 1 + delay :] = codes[:, codebook, : max(frames - delay, 0)]
    return out


def undelayed(logits: mx.array, delays: tuple[int, ...]) -> tuple[mx.array, npt.NDArray[np.bool_]]:
    """`logits [B, K, T, V]` moved back by each codebook's delay, NaN behind; and which are not NaN."""
    batch, _, frames, vocabulary = logits.shape
    lines = []
    known = np.ones(logits.shape[:3], np.bool_)
    for codebook, delay in enumerate(delays):
        nothing = mx.full((batch, min(delay, frames), vocabulary), mx.nan, logits.dtype)
        lines.append(mx.concatenate([logits[:, codebook, delay:], nothing], axis=1))
        known[:, codebook, max(frames - delay, 0) :] = False
    return mx.stack(lines, axis=1), known


class Logits(NamedTuple):
    """What a whole sequence predicts, aligned with its codes; NaN where a delay leaves nothing.

    `text [B, 1, T, text_card_out]`, `audio [B, dep_q, T, card]` float32; the masks
    `[B, 1, T]`, `[B, dep_q, T]` say which predictions count.
    """

    text: mx.array
    text_mask: npt.NDArray[np.bool_]
    audio: mx.array
    audio_mask: npt.NDArray[np.bool_]


class LmModel(nn.Module):
    """A Moshi of any sizes. Weights are immutable and shared; sessions live in its state's rows.

    `guidance` other than 1 moves what is drawn away from what the model would say under its
    worst conditions: every row of the state then has a second one, which hears those.
    """

    def __init__(self, config: LmConfig, guidance: float = 1.0) -> None:
        super().__init__()
        if guidance != 1 and not config.summed:
            raise ValueError("a model without conditions cannot be guided")
        self.config = c = config
        self.guidance = guidance
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
        # The last codebook is heard by nobody within its step.
        self.depformer_emb = [
            Embedding(c.card + 1, c.depformer_dim, normed=c.norm_emb, low_rank=narrow)
            for _ in range(c.dep_q - 1)
        ]
        self.depformer = Depformer(c)
        if c.depformer_norm is not None:
            self.depformer_norms = [make_norm(c.depformer_norm, c.depformer_dim) for _ in range(c.dep_q)]
        self.linears = [Linear(c.depformer_dim, c.card, bias=c.bias_proj) for _ in range(c.dep_q)]
        if c.conditioners:
            self.condition_provider = Conditions(c.conditioners, c.summed, c.dim)
        self._shapes = {name: p.shape for name, p in dict(tree_flatten(self.parameters())).items()}
        self.dtype: mx.Dtype = mx.float32  # of weights and rings
        self._lay_out()

    def parameter_shapes(self) -> dict[str, Shape]:
        """Name and shape of every weight, dense; nothing is computed for it."""
        return dict(self._shapes)

    def load_weights(  # type: ignore[override]
        self,
        path: Path,
        dtype: mx.Dtype = mx.float32,
        *,
        lora: Lora | None = None,
        keep_quantized: bool = False,
        member: Member | None = None,
    ) -> None:
        """Replace all weights by those of a checkpoint in any of the published layouts, with `lora` fused.

        What is quantized in the file is made dense, unless it is kept; with `lora` it never is.
        Of a model that several ranks share, once and without `lora`, a `member` keeps its own share.

        Raises:
            WeightsError: the file is no language model, or is damaged, or does not fill
                exactly these parameters (then `TensorMismatchError`); nothing was replaced.
        """
        rules = self._rules(path, read(path))
        shapes = self.parameter_shapes()
        if lora is not None:
            dense = dict(load_parameters(path, shapes, rules, dtype))
            lora.fuse(self.config, dense)
            install(self, dense.items())
        else:
            weights = stream_parameters(path, shapes, rules, dtype, keep_quantized=keep_quantized)
            if member is not None:
                weights = self._shares(weights, member.share)
            install(self, list(weights))  # complete before any of it is installed
        self.dtype = dtype
        if member is not None:
            self._deal(member)
        self._lay_out()
        self._hearing.settle()
        self._depformer_in.settle()
        settle(self)

    def check_weights(self, path: Path, lora: Lora | None = None) -> list[Assignment]:
        """Compare a checkpoint with the model by its header alone: what each tensor becomes.

        Raises what `load_weights` would.
        """
        header = read(path)
        assignments = match(path, header, self.parameter_shapes(), self._rules(path, header))
        if lora is not None:
            lora.check(self.config, self.parameter_shapes())
        return assignments

    def _shares(self, weights: Iterable[tuple[str, Weight]], share: Share) -> Iterator[tuple[str, Weight]]:
        """What `share` has of each parameter; no whole one is held on to while the next is read."""
        for name, weight in weights:
            mine = share.take(self.config, name, weight)
            del weight
            yield name, mine

    def _deal(self, member: Member) -> None:
        """Compute with a share of the weights from now on, and with the other ranks."""
        share, group = member.share, member.group
        layers = [*self.transformer.layers, *([] if share.whole_depformer else self.depformer.layers)]
        for layer in layers:
            deal_layer(layer, group)
        if share.cut(self.config, "text_linear.weight") is not None:
            self["text_linear"] = GatheredLinear(self.text_linear, group)
        if share.cut(self.config, "linears.0.weight") is not None:
            self["linears"] = [GatheredLinear(linear, group) for linear in self.linears]

    def _lay_out(self) -> None:
        """What is the same in every step is worked out once: conditions, and weights that work together."""
        self._hearing = Hearing([self.text_emb, *self.emb])
        self._depformer_in = Products(self.depformer_in)
        self._conditions: tuple[mx.array, ...] = ()  # each [1, 1, D]: wanted, then, with guidance, unwanted
        if self.config.summed:
            told = [self.condition_provider.wanted()]
            if self.guidance != 1:
                told.append(self.condition_provider.unwanted())
            self._conditions = tuple(each.astype(self.dtype) for each in told)
            mx.eval(self._conditions)

    def _rules(self, path: Path, names: Collection[str]) -> list[Rule]:
        if not any(name.startswith("transformer.layers.") for name in names):
            raise WeightsError(str(path), "not a Moshi language model: it has no transformer.layers")
        return lm_rules(self.config, detect_layout(names))

    @property
    def rows_per_session(self) -> int:
        """2 with guidance: behind all sessions' rows come those that hear the unwanted conditions."""
        return 1 if self.guidance == 1 else 2

    def state(self, rows: int) -> TransformerState:
        """`rows` sessions that have heard nothing."""
        return self.transformer.state(rows * self.rows_per_session, self.dtype)

    def reset(self, state: TransformerState, row: int) -> TransformerState:
        """The state in which session `row` has heard nothing; the others are as they were."""
        for each in self._rows(state, np.array([row], np.int32)).tolist():
            state = self.transformer.reset(state, each)
        return state

    def _rows(self, state: TransformerState, lanes: Lanes) -> Lanes:
        """Where in the state the sessions `lanes [w]` are: `[w]`, or `[2w]` with guidance."""
        if self.guidance == 1:
            return lanes
        return np.concatenate([lanes, lanes + np.int32(len(state.positions) // 2)])

    def step(
        self,
        text: Tokens,
        audio: Tokens,
        state: TransformerState,
        lanes: Lanes,
        sampling: SamplingBatch | None = None,
        *,
        marks: list[mx.array] | None = None,
    ) -> tuple[mx.array, mx.array, TransformerState]:
        """Advance the rows `lanes [w]` by one step; repeated, it draws from `logits` of the whole.

        `text [w, 1]`, `audio [w, n_q, 1]`, delays already applied; −1 is no input. Without
        `sampling` every token is the likeliest. Returns the next text `[w]` and audio
        `[w, dep_q]` int32 and the new state; nothing is evaluated yet, and evaluating the
        tokens evaluates the state. To `marks` is added what is computed on the way, in this
        order, a few dozen operations apart.
        """
        heard = self._told(self._hear(text, audio))  # [w, 1, D], or [2w, 1, D] with guidance
        context, state = self.transformer(heard, state, self._rows(state, lanes), marks)
        drawing = BatchDrawing(
            sampling or SamplingBatch.greedy(len(lanes)), self.config.existing_text_padding_id
        )
        return *self.say(context[:, 0], drawing, marks), state

    def say(
        self, context: mx.array, drawing: Drawing, marks: list[mx.array] | None = None
    ) -> tuple[mx.array, mx.array]:
        """What follows from `context [w, D]` (`[2w, D]` with guidance): text `[w]`, audio `[w, dep_q]`.

        `context` is what the temporal transformer made of the step; `marks`: see `step`.
        """
        context = self.out_norm(context)
        token = text = drawing.text(self._guided(self.text_linear(context).astype(mx.float32)))
        codes: list[mx.array] = []
        past: list[Past] = []
        given = self._depformer_in(context)
        for codebook in range(self.config.dep_q):
            said = token if self.guidance == 1 else mx.concatenate([token, token])
            heard = self._told_depformer(codebook).of_drawn(said)
            logits, past = self._predict(codebook, given[self._weight_set(codebook)] + heard, past, marks)
            token = drawing.audio(self._guided(logits), codebook)
            codes.append(token)
        return text.astype(mx.int32), mx.stack(codes, axis=1).astype(mx.int32)

    def logits(self, codes: Tokens) -> Logits:
        """What each token of `codes [B, 1 + n_q, T]` was expected to be, given all before it.

        Delays are applied and undone here: row 0 of `codes` is text, and a column is a frame.
        """
        c = self.config
        batch, _, frames = codes.shape
        given = delayed(codes, c.delays, np.array([c.text_card] + [c.card] * c.n_q))
        until = given[:, :, :-1].astype(np.int32)
        told = mx.array(given[:, :, 1:].astype(np.int32))
        heard = self._hear(until[:, 0], until[:, 1:])
        if self._conditions:
            heard = heard + self._conditions[0]
        context = self.out_norm(self.transformer.whole(heard))
        text = self.text_linear(context)[:, None]  # [B, 1, T, text_card_out]
        each = context.reshape(batch * frames, -1)  # a depformer run for every step
        audio: list[mx.array] = []
        past: list[Past] = []
        inputs = self._depformer_in(each)
        for codebook in range(c.dep_q):
            before = self._told_depformer(codebook)(told[:, codebook].reshape(-1))
            logits, past = self._predict(codebook, inputs[self._weight_set(codebook)] + before, past)
            audio.append(logits.reshape(batch, frames, -1))
        said = c.delays[: 1 + c.dep_q]
        text, text_mask = undelayed(text.astype(mx.float32), said[:1])
        predicted, audio_mask = undelayed(mx.stack(audio, axis=1), said[1:])
        return Logits(
            text,
            text_mask & (codes[:, :1] != NO_TOKEN),
            predicted,
            audio_mask & (codes[:, 1 : 1 + c.dep_q] != NO_TOKEN),
        )

    def _hear(self, text: Tokens, audio: Tokens) -> mx.array:
        """`text [w, T]`, `audio [w, n_q, T]` → `[w, T, D]`."""
        return self._hearing(self.inputs(text, audio))

    def inputs(self, text: Tokens, audio: Tokens) -> Tokens:
        """`text [w, T]`, `audio [w, n_q, T]` → `[w, 1 + n_q, T]`, as the model is to hear them."""
        if self.config.heard_as is not None:
            said, instead = self.config.heard_as
            text = np.where(text == said, np.int32(instead), text)
        return np.concatenate([text[:, None], audio], axis=1)

    def hear_all(self, inputs: mx.array) -> mx.array:
        """`inputs [w, 1 + n_q, 1]` → `[w, 1, D]` (`[2w, 1, D]` with guidance), conditions added."""
        return self._told(self._hearing.of_arrays(inputs))

    def _told(self, heard: mx.array) -> mx.array:
        """Add the conditions to `heard [w, T, D]`; with guidance, once those wanted, then the others."""
        told = [heard + condition for condition in self._conditions] or [heard]
        return told[0] if len(told) == 1 else mx.concatenate(told)

    def _guided(self, logits: mx.array) -> mx.array:
        """`[w, V]` as it is; with guidance `[2w, V]` → `[w, V]`, away from the second half."""
        if self.guidance == 1:
            return logits
        wanted, unwanted = mx.split(logits, 2)
        return unwanted + (wanted - unwanted) * self.guidance

    def _weight_set(self, codebook: int) -> int:
        """Which of the depformer's inputs a codebook has."""
        return self.config.weight_sets[codebook] if self.config.depformer_multi_linear else 0

    def _told_depformer(self, codebook: int) -> Embedding:
        """How the depformer hears the token before `codebook`."""
        return self.depformer_text_emb if codebook == 0 else self.depformer_emb[codebook - 1]

    def _predict(
        self, codebook: int, x: mx.array, past: list[Past], marks: list[mx.array] | None = None
    ) -> tuple[mx.array, list[Past]]:
        """From `x [w, D]`, the context and the token before: logits `[w, card]` float32."""
        x, past = self.depformer.step(x, codebook, past, marks)
        if self.config.depformer_norm is not None:
            x = self.depformer_norms[codebook](x)
        return self.linears[codebook](x).astype(mx.float32), past
