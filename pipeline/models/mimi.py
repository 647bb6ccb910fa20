"""Mimi, the neural codec: 80 ms of sound ↔ one column of codes, with the state as an argument.

`encode`: SEANet → transformer → downsampling → quantizer; `decode`: the reverse. Each direction
has a `MimiState` with one row for every lane; a call names the rows it works on, and the others
are unchanged bit for bit.
Source: Défossez et al. 2024, "Moshi", section 3.3; behaviour of the `moshi` package,
whose streaming codes and samples this one reproduces.
"""

from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

from pipeline.models.checkpoint.mimi_config import MimiConfig
from pipeline.models.checkpoint.mimi_key_map import check_mimi, load_mimi
from pipeline.models.checkpoint.safetensors_header import Shape
from pipeline.models.evaluation import EvalSchedule
from pipeline.models.layers.attention import Lanes
from pipeline.models.layers.conv import ConvDownsample1d, ConvState, ConvTrUpsample1d, conv_state_floats
from pipeline.models.layers.linear import materialize
from pipeline.models.layers.transformer import RingKVCache, Transformer
from pipeline.models.quantizer import SplitResidualVectorQuantizer
from pipeline.models.seanet import SeanetDecoder, SeanetEncoder
from pipeline.units import FRAME_SAMPLES


class MimiState(NamedTuple):
    """The state of one direction: `conv_state [rows, floats]` of its convolutions, and its KV cache."""

    conv_state: mx.array
    kv_cache: RingKVCache


class Mimi(nn.Module):
    """The codec with its first `num_codebooks` codebooks; concatenated frames equal the whole.

    A lane may be named several times in one call only if its results are never read, as padding.
    """

    def __init__(self, config: MimiConfig, num_codebooks: int) -> None:
        super().__init__()
        if not 2 <= num_codebooks <= config.quantizer.n_q:
            raise ValueError(f"{num_codebooks} codebooks of {config.quantizer.n_q}")
        width = config.seanet.dimension
        self.config = config
        self.num_codebooks = num_codebooks
        self.encoder = SeanetEncoder(config.seanet)
        self.encoder_transformer = Transformer(config.transformer)
        self.downsample = ConvDownsample1d(width, config.frame_positions)
        self.quantizer = SplitResidualVectorQuantizer(num_codebooks, width, config.quantizer)
        self.upsample = ConvTrUpsample1d(width, config.frame_positions)
        self.decoder_transformer = Transformer(config.transformer)
        self.decoder = SeanetDecoder(config.seanet)
        self.dtype: mx.Dtype = mx.float32

    def load_weights(self, path: Path, dtype: mx.Dtype = mx.float32) -> None:  # type: ignore[override]
        """Take every weight from a published checkpoint, or none.

        Raises:
            WeightsError: there is no such file, or it is not a whole safetensors file.
            TensorMismatchError: names every tensor missing, left over or mis-shaped.
        """
        weights = load_mimi(path, self.config, self._network_shapes(), self.num_codebooks, dtype)
        self.update(tree_unflatten(list(weights.items())))
        self.dtype = dtype
        materialize(self)

    def check_weights(self, path: Path) -> None:
        """Raise what `load_weights` would, having read the file's header only."""
        check_mimi(path, self.config, self._network_shapes())

    def _network_shapes(self) -> dict[str, Shape]:
        """Names and shapes of all parameters except the quantizer's, which are stored in another form."""
        parameters = tree_flatten(self.parameters(), destination={})
        assert isinstance(parameters, dict)
        return {name: p.shape for name, p in parameters.items() if not name.startswith("quantizer.")}

    def encoder_state(self, rows: int) -> MimiState:
        """The encoder's state for `rows` new sessions."""
        floats = conv_state_floats(self.encoder) + conv_state_floats(self.downsample)
        return self._state(self.encoder_transformer, floats, rows)

    def decoder_state(self, rows: int) -> MimiState:
        """The decoder's state for `rows` new sessions."""
        floats = conv_state_floats(self.upsample) + conv_state_floats(self.decoder)
        return self._state(self.decoder_transformer, floats, rows)

    def _state(self, transformer: Transformer, floats: int, rows: int) -> MimiState:
        return MimiState(mx.zeros((rows, floats), self.dtype), transformer.state(rows, self.dtype))

    def reset(self, state: MimiState, row: int) -> MimiState:
        """The state, of either direction, with `row` reset; the others are unchanged."""
        conv_state = mx.array(state.conv_state)
        conv_state[row] = 0
        # The transformers of both directions have the same shape, so either may reset the row.
        return MimiState(conv_state, self.encoder_transformer.reset(state.kv_cache, row))

    def encode(
        self, pcm: mx.array, state: MimiState, lanes: Lanes, schedule: EvalSchedule | None = None
    ) -> tuple[mx.array, MimiState]:
        """`pcm [w, 1, n · 1920]` at 24 kHz → codes `[w, K, n]` int32, and the new state.

        `schedule` gets intermediate results a few operations apart.

        Raises:
            ValueError: the samples are not whole frames.
        """
        samples = pcm.shape[-1]
        if samples == 0 or samples % FRAME_SAMPLES:
            raise ValueError(f"{samples} samples are not whole frames of {FRAME_SAMPLES}")
        rows = mx.array(lanes)
        conv_state = ConvState(state.conv_state[rows], schedule)
        fresh = mx.array(state.kv_cache.offsets[lanes] == 0)  # [w]
        x = self.encode_latent(pcm, conv_state)
        x, kv_cache = self._attend(self.encoder_transformer, x, state.kv_cache, lanes)
        return self.quantize(x, conv_state, fresh), _updated(state, rows, conv_state, kv_cache)

    def encode_latent(self, pcm: mx.array, conv_state: ConvState) -> mx.array:
        """`pcm [w, 1, n · 1920]` → the input of the encoder's transformer, `[w, 2n, D]`."""
        return self.encoder(pcm.reshape(len(pcm), -1, 1).astype(self.dtype), conv_state)

    def quantize(self, x: mx.array, conv_state: ConvState, fresh: mx.array) -> mx.array:
        """The transformer's output `x [w, 2n, D]` → codes `[w, K, n]`; `fresh [w]`: rows without a past."""
        conv_state.eval_point(x)
        return self.quantizer.encode(self.downsample(x, conv_state, fresh))

    def decode(
        self, codes: mx.array, state: MimiState, lanes: Lanes, schedule: EvalSchedule | None = None
    ) -> tuple[mx.array, MimiState]:
        """Codes `[w, K, n]`, each below `bins`, → `pcm [w, 1, n · 1920]` float32, and the new state.

        With fewer codebooks than the codec has, the others add nothing. `schedule`: see `encode`.
        """
        rows = mx.array(lanes)
        conv_state = ConvState(state.conv_state[rows], schedule)
        x = self.dequantize(codes, conv_state)
        x, kv_cache = self._attend(self.decoder_transformer, x, state.kv_cache, lanes)
        return self.decode_latent(x, conv_state), _updated(state, rows, conv_state, kv_cache)

    def dequantize(self, codes: mx.array, conv_state: ConvState) -> mx.array:
        """Codes `[w, K, n]` → the input of the decoder's transformer, `[w, 2n, D]`."""
        return self.upsample(self.quantizer.decode(codes).astype(self.dtype), conv_state)

    def decode_latent(self, x: mx.array, conv_state: ConvState) -> mx.array:
        """The transformer's output `x [w, 2n, D]` → `pcm [w, 1, n · 1920]` float32."""
        conv_state.eval_point(x)
        return self.decoder(x, conv_state).astype(mx.float32).swapaxes(1, 2)

    def _attend(
        self, transformer: Transformer, x: mx.array, state: RingKVCache, lanes: Lanes
    ) -> tuple[mx.array, RingKVCache]:
        """Run `x [w, n · positions, D]` frame by frame, because a position's window depends on its frame.

        All positions of a frame are written to the ring before any of them attends. If those of a
        whole call were, a burst would lose more of its past than its frames one by one.
        """
        frames = []
        for frame in mx.split(x, x.shape[1] // self.config.frame_positions, axis=1):
            y, state = transformer(frame, state, lanes)
            frames.append(y)
        return mx.concatenate(frames, axis=1), state


def _updated(state: MimiState, rows: mx.array, conv_state: ConvState, kv_cache: RingKVCache) -> MimiState:
    packed = mx.array(state.conv_state)
    packed[rows] = conv_state.packed()
    return MimiState(packed, kv_cache)
