"""Computes: Mimi, the neural codec; 80 ms of sound ↔ one column of codes, state an argument.

`encode`: SEANet → transformer → halving → quantizer. `decode`: the same way back. What a
session leaves behind is a `MimiState` per direction, with a row for every lane; a call
names the rows it works on, and the others keep theirs bit for bit.
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
from pipeline.models.layers.attention import Lanes
from pipeline.models.layers.conv import Downsample, History, Upsample, history_floats
from pipeline.models.layers.linear import settle
from pipeline.models.layers.transformer import Transformer, TransformerState
from pipeline.models.quantizer import SplitQuantizer
from pipeline.models.seanet import SeanetDecoder, SeanetEncoder
from pipeline.units import FRAME_SAMPLES


class MimiState(NamedTuple):
    """What one direction of the codec keeps: `history [rows, floats]` of its convolutions, and rings."""

    history: mx.array
    transformer: TransformerState


class Mimi(nn.Module):
    """The codec with its first `num_codebooks` codebooks; concatenated frames equal the whole.

    Lanes may be named several times in one call only if nobody reads them, as padding is.
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
        self.downsample = Downsample(width, config.frame_positions)
        self.quantizer = SplitQuantizer(num_codebooks, width, config.quantizer)
        self.upsample = Upsample(width, config.frame_positions)
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
        settle(self)

    def check_weights(self, path: Path) -> None:
        """Raise what `load_weights` would, having read the file's header only."""
        check_mimi(path, self.config, self._network_shapes())

    def _network_shapes(self) -> dict[str, Shape]:
        """Names and shapes of all parameters but the quantizer's, which are stored in another form."""
        parameters = tree_flatten(self.parameters(), destination={})
        assert isinstance(parameters, dict)
        return {name: p.shape for name, p in parameters.items() if not name.startswith("quantizer.")}

    def encoder_state(self, rows: int) -> MimiState:
        """`rows` sessions of which nothing has been heard."""
        floats = history_floats(self.encoder) + history_floats(self.downsample)
        return self._state(self.encoder_transformer, floats, rows)

    def decoder_state(self, rows: int) -> MimiState:
        """`rows` sessions to which nothing has been said."""
        floats = history_floats(self.upsample) + history_floats(self.decoder)
        return self._state(self.decoder_transformer, floats, rows)

    def _state(self, transformer: Transformer, floats: int, rows: int) -> MimiState:
        return MimiState(mx.zeros((rows, floats), self.dtype), transformer.state(rows, self.dtype))

    def reset(self, state: MimiState, row: int) -> MimiState:
        """The state, of either direction, in which `row` is new; the others are as they were."""
        history = mx.array(state.history)
        history[row] = 0
        # Both directions' transformers have one shape, so either may clear the row.
        return MimiState(history, self.encoder_transformer.reset(state.transformer, row))

    def encode(
        self, pcm: mx.array, state: MimiState, lanes: Lanes, marks: list[mx.array] | None = None
    ) -> tuple[mx.array, MimiState]:
        """`pcm [w, 1, n · 1920]` at 24 kHz → codes `[w, K, n]` int32, and the new state.

        To `marks` is added what is computed on the way, in this order, a few operations apart.

        Raises:
            ValueError: the samples are not whole frames.
        """
        samples = pcm.shape[-1]
        if samples == 0 or samples % FRAME_SAMPLES:
            raise ValueError(f"{samples} samples are not whole frames of {FRAME_SAMPLES}")
        rows = mx.array(lanes)
        history = History(state.history[rows], marks)
        fresh = mx.array(state.transformer.positions[lanes] == 0)  # [w]
        x = self.hear(pcm, history)
        x, transformer = self._attend(self.encoder_transformer, x, state.transformer, lanes)
        return self.quantize(x, history, fresh), _put(state, rows, history, transformer)

    def hear(self, pcm: mx.array, history: History) -> mx.array:
        """`pcm [w, 1, n · 1920]` → what the encoder's transformer takes, `[w, 2n, D]`."""
        return self.encoder(pcm.reshape(len(pcm), -1, 1).astype(self.dtype), history)

    def quantize(self, x: mx.array, history: History, fresh: mx.array) -> mx.array:
        """What it made of that, `x [w, 2n, D]` → codes `[w, K, n]`; `fresh [w]`: rows without a past."""
        history.mark(x)
        return self.quantizer.encode(self.downsample(x, history, fresh))

    def decode(
        self, codes: mx.array, state: MimiState, lanes: Lanes, marks: list[mx.array] | None = None
    ) -> tuple[mx.array, MimiState]:
        """Codes `[w, K, n]`, each below `bins`, → `pcm [w, 1, n · 1920]` float32, and the new state.

        Fewer codebooks than the codec has are as if the others added nothing. `marks`: see `encode`.
        """
        rows = mx.array(lanes)
        history = History(state.history[rows], marks)
        x = self.dequantize(codes, history)
        x, transformer = self._attend(self.decoder_transformer, x, state.transformer, lanes)
        return self.speak(x, history), _put(state, rows, history, transformer)

    def dequantize(self, codes: mx.array, history: History) -> mx.array:
        """Codes `[w, K, n]` → what the decoder's transformer takes, `[w, 2n, D]`."""
        return self.upsample(self.quantizer.decode(codes).astype(self.dtype), history)

    def speak(self, x: mx.array, history: History) -> mx.array:
        """What it made of that, `x [w, 2n, D]` → `pcm [w, 1, n · 1920]` float32."""
        history.mark(x)
        return self.decoder(x, history).astype(mx.float32).swapaxes(1, 2)

    def _attend(
        self, transformer: Transformer, x: mx.array, state: TransformerState, lanes: Lanes
    ) -> tuple[mx.array, TransformerState]:
        """`x [w, n · positions, D]` frame by frame: which keys a position sees depends on its frame.

        All positions of a frame are in the ring before any attends; were whole calls written
        first instead, a burst would forget more of its past than its frames one by one.
        """
        frames = []
        for frame in mx.split(x, x.shape[1] // self.config.frame_positions, axis=1):
            y, state = transformer(frame, state, lanes)
            frames.append(y)
        return mx.concatenate(frames, axis=1), state


def _put(state: MimiState, rows: mx.array, history: History, transformer: TransformerState) -> MimiState:
    packed = mx.array(state.history)
    packed[rows] = history.repacked()
    return MimiState(packed, transformer)
