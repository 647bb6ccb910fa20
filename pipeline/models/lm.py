"""The Moshi language model: what was said, in, the next text token and the next codes, out.

Per step, the temporal transformer takes in one text token and one token of each codebook
of both voices; from what it makes of them comes a text token, and from both, codebook by
codebook, the agent's next codes. Delays between codebooks are applied outside, on the
host (`pipeline.stages.grid`): a step sees tokens, not frames.
Source: Défossez et al. 2024, "Moshi", section 3.4; the arithmetic of the `moshi` package.
"""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

from pipeline.errors import WeightsError
from pipeline.models.attention import Lanes
from pipeline.models.checkpoint import Rule, Shape, load_parameters, match, read_header
from pipeline.models.depformer import Depformer, Past
from pipeline.models.embedding import Embedding
from pipeline.models.lm_checkpoint import detect_layout, lm_rules
from pipeline.models.lm_config import LmConfig
from pipeline.models.sampling import SamplingBatch, draw, shape_text
from pipeline.models.transformer import Transformer, TransformerState, make_norm

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
    """A Moshi of any sizes. Weights are immutable and shared; sessions live in its state's rows."""

    def __init__(self, config: LmConfig) -> None:
        super().__init__()
        self.config = c = config
        narrow = c.depformer_low_rank_embeddings
        self.text_emb = Embedding(c.text_card + 1, c.dim, normed=c.norm_emb)
        self.emb = [Embedding(c.card + 1, c.dim, normed=c.norm_emb) for _ in range(c.n_q)]
        self.transformer = Transformer(c.transformer)
        self.out_norm = make_norm(c.norm, c.dim)
        self.text_linear = nn.Linear(c.dim, c.text_vocabulary, bias=c.bias_proj)
        inputs = max(c.weight_sets) + 1 if c.depformer_multi_linear else 1
        self.depformer_in = [nn.Linear(c.dim, c.depformer_dim, bias=False) for _ in range(inputs)]
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
        self.linears = [nn.Linear(c.depformer_dim, c.card, bias=c.bias_proj) for _ in range(c.dep_q)]

    @property
    def dtype(self) -> mx.Dtype:
        """What weights and rings are kept in."""
        dtype: mx.Dtype = self.text_emb.weight.dtype
        return dtype

    def parameter_shapes(self) -> dict[str, Shape]:
        """Name and shape of every weight; nothing is computed for it."""
        return {name: tensor.shape for name, tensor in dict(tree_flatten(self.parameters())).items()}

    def load_weights(self, path: Path, dtype: mx.Dtype = mx.float32) -> None:  # type: ignore[override]
        """Replace all weights by those of a checkpoint in any of the published layouts.

        Raises:
            WeightsError: the file is no language model, or is damaged, or does not fill
                exactly these parameters (then `TensorMismatchError`); nothing was replaced.
        """
        rules = self._rules(path, read_header(path))
        self.update(tree_unflatten(load_parameters(path, self.parameter_shapes(), rules, dtype)))

    def check_weights(self, path: Path) -> None:
        """Compare a checkpoint with the model by its header alone; raises what `load_weights` would."""
        header = read_header(path)
        match(path, header, self.parameter_shapes(), self._rules(path, header))

    def _rules(self, path: Path, names: Collection[str]) -> list[Rule]:
        if not any(name.startswith("transformer.layers.") for name in names):
            raise WeightsError(str(path), "not a Moshi language model: it has no transformer.layers")
        return lm_rules(self.config, detect_layout(names))

    def state(self, rows: int) -> TransformerState:
        """`rows` sessions that have heard nothing."""
        return self.transformer.state(rows, self.dtype)

    def reset(self, state: TransformerState, row: int) -> TransformerState:
        """The state in which `row` has heard nothing; the others are as they were."""
        return self.transformer.reset(state, row)

    def step(
        self,
        text: Tokens,
        audio: Tokens,
        state: TransformerState,
        lanes: Lanes,
        sampling: SamplingBatch | None = None,
    ) -> tuple[mx.array, mx.array, TransformerState]:
        """Advance the rows `lanes [w]` by one step; repeated, it draws from `logits` of the whole.

        `text [w, 1]`, `audio [w, n_q, 1]`, delays already applied; −1 is no input. Without
        `sampling` every token is the likeliest. Returns the next text `[w]` and audio
        `[w, dep_q]` int32 and the new state; nothing is evaluated yet, and evaluating the
        tokens evaluates the state.
        """
        heard = self._hear(mx.array(text), mx.array(audio))
        context, state = self.transformer(heard, state, lanes)
        context = self.out_norm(context)  # [w, 1, D]
        logits = self.text_linear(context)[:, 0].astype(mx.float32)
        if sampling is None:
            sampling = SamplingBatch.greedy(len(lanes))
        numbers = None if sampling.uniforms is None else mx.array(sampling.uniforms)
        shaped = shape_text(logits, sampling, self.config.existing_text_padding_id)
        token = next_text = draw(shaped, sampling.text, None if numbers is None else numbers[:, 0])
        codes: list[mx.array] = []
        past: list[Past] = []
        for codebook in range(self.config.dep_q):
            logits, past = self._predict(codebook, token[:, None], context, past)
            uniform = None if numbers is None else numbers[:, 1 + codebook]
            token = draw(logits[:, 0], sampling.audio, uniform)
            codes.append(token)
        return next_text, mx.stack(codes, axis=1), state

    def logits(self, codes: Tokens) -> Logits:
        """What each token of `codes [B, 1 + n_q, T]` was expected to be, given all before it.

        Delays are applied and undone here: row 0 of `codes` is text, and a column is a frame.
        """
        c = self.config
        batch, _, frames = codes.shape
        given = delayed(codes, c.delays, np.array([c.text_card] + [c.card] * c.n_q))
        heard = mx.array(given[:, :, :-1].astype(np.int32))
        told = mx.array(given[:, :, 1:].astype(np.int32))
        context = self.out_norm(self.transformer.whole(self._hear(heard[:, 0], heard[:, 1:])))
        text = self.text_linear(context)[:, None]  # [B, 1, T, text_card_out]
        each = context.reshape(batch * frames, 1, -1)  # a depformer run for every step
        audio: list[mx.array] = []
        past: list[Past] = []
        for codebook in range(c.dep_q):
            logits, past = self._predict(codebook, told[:, codebook].reshape(-1, 1), each, past)
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

    def _hear(self, text: mx.array, audio: mx.array) -> mx.array:
        """`text [w, T]`, `audio [w, n_q, T]` → `[w, T, D]`."""
        heard = self.emb[0](audio[:, 0])
        for codebook in range(1, self.config.n_q):
            heard = heard + self.emb[codebook](audio[:, codebook])
        return heard + self.text_emb(text)

    def _predict(
        self, codebook: int, token: mx.array, context: mx.array, past: list[Past]
    ) -> tuple[mx.array, list[Past]]:
        """From the token before, `[w, 1]`, and `context [w, 1, D]`: logits `[w, 1, card]` float32."""
        which = self.config.weight_sets[codebook] if self.config.depformer_multi_linear else 0
        emb = self.depformer_text_emb if codebook == 0 else self.depformer_emb[codebook - 1]
        x, past = self.depformer.step(self.depformer_in[which](context) + emb(token), codebook, past)
        if self.config.depformer_norm is not None:
            x = self.depformer_norms[codebook](x)
        return self.linears[codebook](x).astype(mx.float32), past
