"""A frame of the codec as one compiled function in either direction."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from pipeline.models.compiled.attention import MaskedAttentionMetadata, cache_inputs
from pipeline.models.compiled.functions import CompiledFunctions
from pipeline.models.compiled.inputs import Layout, Numbers, PositionInputs
from pipeline.models.compiled.slots import BatchSlots, ShapeKey, batch_shapes
from pipeline.models.layers.attention import Lanes
from pipeline.models.layers.conv import ConvState
from pipeline.models.layers.linear import materialize
from pipeline.models.layers.transformer import RingKVCache, Transformer
from pipeline.models.mimi import Mimi, MimiState
from pipeline.units import FRAME_SAMPLES

Attend = Callable[[mx.array], mx.array]


class CompiledMimi:
    """`Mimi.encode` and `Mimi.decode` of one frame, for states of `lanes` sessions and the scratch row.

    `codebooks`: how many are decoded. Results are as wide as the compiled batch: the lanes in
    their order, then padding. Nothing is evaluated yet.
    """

    def __init__(self, mimi: Mimi, lanes: int, codebooks: int) -> None:
        mx.eval(mimi.parameters())  # or the functions would compute lazy weights in every frame
        materialize(mimi)
        steps = mimi.config.frame_positions
        self._mimi = mimi
        self._scratch = lanes
        self._positions = PositionInputs(mimi.config.transformer, steps)
        common = {"row": 1, "order": 1, "slot_mapping": steps, "seq_lens": 1}
        positions = self._positions.columns
        self._encode_layout = Layout(common | {"fresh": 1}, positions | {"pcm": FRAME_SAMPLES})
        self._decode_layout = Layout(common | {"codes": codebooks}, positions)
        self.encoding = CompiledFunctions(self._encode)
        self.decoding = CompiledFunctions(self._decode)

    def shape_keys(self) -> list[ShapeKey]:
        """All shapes that each direction is ever compiled for; the rings are short and read whole."""
        context = self._mimi.config.transformer.context
        return [ShapeKey(*shape, context) for shape in batch_shapes(self._scratch)]

    def warmup_encoder(self, state: MimiState) -> MimiState:
        """Compile all shapes of `encode`; only the scratch row of the state changes."""
        silence = np.zeros((1, FRAME_SAMPLES), np.float32)
        return self._warmup(self.encoding, self._encode_layout, {"pcm": silence}, state)

    def warmup_decoder(self, state: MimiState) -> MimiState:
        """The same for `decode`."""
        codes = np.zeros((1, self._decode_layout.integers["codes"]), np.int32)
        return self._warmup(self.decoding, self._decode_layout, {"codes": codes}, state)

    def encode(
        self, pcm: npt.NDArray[np.float32] | mx.array, state: MimiState, lanes: Lanes
    ) -> tuple[mx.array, MimiState]:
        """`pcm [w, 1, 1920]` → codes `[w or more, K, 1]`, and the new state, as `Mimi.encode` does."""
        return self._call(self.encoding, self._encode_layout, {"pcm": np.asarray(pcm)}, state, lanes)

    def decode(
        self, codes: npt.NDArray[np.int32] | mx.array, state: MimiState, lanes: Lanes
    ) -> tuple[mx.array, MimiState]:
        """Codes `[w, K, 1]` → `pcm [w or more, 1, 1920]`, and the new state, as `Mimi.decode` does."""
        return self._call(self.decoding, self._decode_layout, {"codes": np.asarray(codes)}, state, lanes)

    def _warmup(
        self, functions: CompiledFunctions, layout: Layout, values: dict[str, Numbers], state: MimiState
    ) -> MimiState:
        for key in self.shape_keys():
            slots = BatchSlots.empty(key.width, in_place=key.in_place)
            result, state = self._run(functions, layout, slots, values, state)
            mx.eval(result, state.conv_state, state.kv_cache.keys, state.kv_cache.values)
        return state

    def _call(
        self,
        functions: CompiledFunctions,
        layout: Layout,
        values: dict[str, Numbers],
        state: MimiState,
        lanes: Lanes,
    ) -> tuple[mx.array, MimiState]:
        result, after = self._run(functions, layout, BatchSlots.of(lanes, self._scratch), values, state)
        offsets = state.kv_cache.offsets.copy()
        offsets[lanes] += self._positions.steps
        return result, after._replace(kv_cache=after.kv_cache._replace(offsets=offsets))

    def _run(
        self,
        functions: CompiledFunctions,
        layout: Layout,
        slots: BatchSlots,
        values: dict[str, Numbers],
        state: MimiState,
    ) -> tuple[mx.array, MimiState]:
        steps, context = self._positions.steps, self._mimi.config.transformer.context
        rings = state.kv_cache
        starts = slots.starts(rings.offsets, self._scratch)
        inputs: dict[str, Numbers] = {
            "row": slots.rows(self._scratch),
            "order": slots.order,
            "fresh": starts == 0,
            **cache_inputs(starts, steps, context),
            **self._positions.values(starts[:, None] + range(steps)),
            **{name: slots.scatter(value) for name, value in values.items()},
        }
        key = ShapeKey(slots.width, slots.in_place, context)
        arrays = [state.conv_state, *rings.keys, *rings.values]
        (result,), (conv_state, *arrays) = functions(key, *layout.pack(inputs), arrays)
        layers = len(rings.keys)
        after = RingKVCache(tuple(arrays[:layers]), tuple(arrays[layers:]), rings.offsets, rings.pinned)
        return result, MimiState(conv_state, after)

    def _encode(
        self, key: ShapeKey, integers: mx.array, floats: mx.array, state: list[mx.array]
    ) -> tuple[list[mx.array], list[mx.array]]:
        inputs, mimi = self._encode_layout.unpack(integers, floats), self._mimi

        def compute(conv_state: ConvState, attend: Attend) -> mx.array:
            latent = attend(mimi.encode_latent(inputs["pcm"][:, None], conv_state))
            return mimi.quantize(latent, conv_state, inputs["fresh"][:, 0] != 0)

        return self._compute(key, inputs, state, mimi.encoder_transformer, compute)

    def _decode(
        self, key: ShapeKey, integers: mx.array, floats: mx.array, state: list[mx.array]
    ) -> tuple[list[mx.array], list[mx.array]]:
        inputs, mimi = self._decode_layout.unpack(integers, floats), self._mimi

        def compute(conv_state: ConvState, attend: Attend) -> mx.array:
            latent = attend(mimi.dequantize(inputs["codes"][:, :, None], conv_state))
            return mimi.decode_latent(latent, conv_state)

        return self._compute(key, inputs, state, mimi.decoder_transformer, compute)

    def _compute(
        self,
        key: ShapeKey,
        inputs: dict[str, mx.array],
        state: list[mx.array],
        transformer: Transformer,
        compute: Callable[[ConvState, Attend], mx.array],
    ) -> tuple[list[mx.array], list[mx.array]]:
        """Run one direction, `compute`, on the rows of `state` that the slots use, and write them back."""
        packed, *rings = state
        rows, layers = inputs["row"][:, 0], len(transformer.layers)
        attention = transformer.layers[0].self_attn
        metadata = MaskedAttentionMetadata.of(
            key, inputs, context=transformer.config.context, attention=attention
        )
        after: list[mx.array] = []

        def attend(x: mx.array) -> mx.array:
            rows, rope = self._positions.apply(x.reshape(-1, x.shape[-1]), inputs)
            rows, keys, values = transformer.run_layers(rows, rings[:layers], rings[layers:], metadata, rope)
            after.extend([*keys, *values])
            return rows.reshape(x.shape)

        conv_state = ConvState(packed[: key.width] if key.in_place else packed[rows])
        result = compute(conv_state, attend)
        written = mx.array(packed)
        written[rows] = conv_state.packed()
        return [result[inputs["order"][:, 0]]], [written, *after]
