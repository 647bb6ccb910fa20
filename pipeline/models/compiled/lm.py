"""A step of the language model as one compiled function, with depth transformer and sampling."""

import mlx.core as mx
import numpy as np

from pipeline.models.compiled.attention import MaskedAttentionMetadata, cache_inputs
from pipeline.models.compiled.functions import CompiledFunctions
from pipeline.models.compiled.inputs import Layout, Numbers, PositionInputs
from pipeline.models.compiled.sampling import CompiledSampler
from pipeline.models.compiled.slots import BatchSlots, ShapeKey, batch_shapes, slot_count, slot_counts
from pipeline.models.layers.attention import Lanes
from pipeline.models.layers.linear import materialize
from pipeline.models.layers.transformer import RingKVCache
from pipeline.models.lm import LmModel, Tokens
from pipeline.models.sampling import SamplingBatch


class CompiledLm:
    """`LmModel.step` for a state of `lanes` sessions and the scratch row: the same tokens, the same state.

    Results are as wide as the compiled batch: the lanes in their order, then padding.
    """

    def __init__(self, model: LmModel, lanes: int) -> None:
        mx.eval(model.parameters())  # or the function would compute lazy weights in every step
        materialize(model)
        c = model.config
        integers, floats = SamplingBatch.packed_columns(c.dep_q)
        self._model = model
        self._scratch = lanes
        self._begins = tuple(part * (lanes + 1) for part in range(model.rows_per_session))
        self._positions = PositionInputs(c.transformer, steps=1)
        self._layout = Layout(
            {"row": 1, "order": 1, "slot_mapping": 1, "seq_lens": 1, "tokens": 1 + c.n_q, **integers},
            self._positions.columns | floats,
        )
        self.functions = CompiledFunctions(self._compute)

    def shape_keys(self) -> list[ShapeKey]:
        """All shapes that are ever compiled."""
        counts = slot_counts(self._model.config.transformer.context)
        return [ShapeKey(*shape, count) for shape in batch_shapes(self._scratch) for count in counts]

    def warmup(self, state: RingKVCache) -> RingKVCache:
        """Compile all shapes, so that no session waits for it; only the scratch row of the state changes."""
        c = self._model.config
        tokens = np.zeros((1, 1 + c.n_q, 1), np.int32)
        for key in self.shape_keys():
            slots = BatchSlots.empty(key.width, in_place=key.in_place)
            text, audio, state = self._run(key, slots, tokens, state, SamplingBatch.greedy(1))
            mx.eval(text, audio, state.keys, state.values)
        return state

    def step(
        self,
        text: Tokens,
        audio: Tokens,
        state: RingKVCache,
        lanes: Lanes,
        sampling: SamplingBatch | None = None,
    ) -> tuple[mx.array, mx.array, RingKVCache]:
        """Advance `lanes [w]`, of which scratch rows come last: an `LmStep`."""
        slots = BatchSlots.of(lanes, self._scratch)
        rows = np.concatenate([lanes + begin for begin in self._begins])
        offsets = state.offsets.copy()
        offsets[rows] += 1
        longest = int(offsets[slots.lanes if len(slots.lanes) else lanes].max())
        context = self._model.config.transformer.context
        key = ShapeKey(slots.width, slots.in_place, slot_count(min(longest, context), context))
        tokens = self._model.input_tokens(text, audio)
        batch = sampling or SamplingBatch.greedy(len(lanes))
        next_text, next_audio, state = self._run(key, slots, tokens, state, batch)
        return next_text, next_audio, state._replace(offsets=offsets)

    def _run(
        self, key: ShapeKey, slots: BatchSlots, tokens: Tokens, state: RingKVCache, batch: SamplingBatch
    ) -> tuple[mx.array, mx.array, RingKVCache]:
        c = self._model.config
        starts = slots.starts(state.offsets, self._scratch)
        pinned = slots.starts(state.pinned, self._scratch)
        inputs: dict[str, Numbers] = {
            "row": slots.rows(self._scratch),
            "order": slots.order,
            "tokens": slots.scatter(tokens),
            **cache_inputs(starts, 1, c.transformer.context, pinned),
            **self._positions.values(starts[:, None]),
            **{name: slots.scatter(values) for name, values in batch.pack(c.dep_q).items()},
        }
        rings = [*state.keys, *state.values]
        (text, audio), rings = self.functions(key, *self._layout.pack(inputs), rings)
        layers = len(state.keys)
        return (
            text,
            audio,
            RingKVCache(tuple(rings[:layers]), tuple(rings[layers:]), state.offsets, state.pinned),
        )

    def _compute(
        self, key: ShapeKey, integers: mx.array, floats: mx.array, rings: list[mx.array]
    ) -> tuple[list[mx.array], list[mx.array]]:
        """`LmModel.step` with arrays as its only inputs."""
        model, config = self._model, self._model.config
        transformer = model.transformer
        inputs = self._layout.unpack(integers, floats)
        metadata = MaskedAttentionMetadata.of(
            key,
            inputs,
            context=config.transformer.context,
            attention=transformer.layers[0].self_attn,
            begins=self._begins,
        )
        x = model.embed_inputs(inputs["tokens"][:, :, None])[:, 0]  # [w, D], or [2w, D] with guidance
        x, rope = self._positions.apply(x, inputs)
        layers = len(transformer.layers)
        x, keys, values = transformer.run_layers(x, rings[:layers], rings[layers:], metadata, rope)
        text, audio = model.sample(x, CompiledSampler(inputs, config.existing_text_padding_id))
        order = inputs["order"][:, 0]
        return [text[order], audio[order]], [*keys, *values]
