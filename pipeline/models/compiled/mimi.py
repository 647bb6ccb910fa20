"""A frame of the codec as one graph in either direction, for as many lanes as there are places."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from pipeline.models.compiled.attention import MaskedPlan, slots_told
from pipeline.models.compiled.graphs import Graphs
from pipeline.models.compiled.inputs import Layout, Numbers, Whereabouts
from pipeline.models.compiled.slots import Form, Places, seats
from pipeline.models.layers.attention import Lanes
from pipeline.models.layers.conv import History
from pipeline.models.layers.linear import settle
from pipeline.models.layers.transformer import Transformer, TransformerState
from pipeline.models.mimi import Mimi, MimiState
from pipeline.units import FRAME_SAMPLES

Attend = Callable[[mx.array], mx.array]


class CompiledMimi:
    """`Mimi.encode` and `Mimi.decode` of one frame, for states of `lanes` sessions and the scratch row.

    `codebooks`: how many are decoded. What a call returns is as wide as its graph: the lanes in
    their order, then what is nobody's.
    """

    def __init__(self, mimi: Mimi, lanes: int, codebooks: int) -> None:
        mx.eval(mimi.parameters())  # a graph would compute what is not there yet in every frame
        settle(mimi)
        steps = mimi.config.frame_positions
        self._mimi = mimi
        self._scratch = lanes
        self._whereabouts = Whereabouts(mimi.config.transformer, steps)
        common = {"row": 1, "order": 1, "slots": steps, "filled": 1}
        placed = self._whereabouts.columns
        self._heard = Layout(common | {"fresh": 1}, placed | {"pcm": FRAME_SAMPLES})
        self._said = Layout(common | {"codes": codebooks}, placed)
        self.encoding = Graphs(self._encode)
        self.decoding = Graphs(self._decode)

    def forms(self) -> list[Form]:
        """Everything that each direction is ever compiled for; its rings are short and looked at whole."""
        return [Form(*seat, self._mimi.config.transformer.context) for seat in seats(self._scratch)]

    def warm_encoder(self, state: MimiState) -> MimiState:
        """Compile every form of `encode`; of the state, only the scratch row is touched."""
        silence = np.zeros((1, FRAME_SAMPLES), np.float32)
        return self._warm(self.encoding, self._heard, {"pcm": silence}, state)

    def warm_decoder(self, state: MimiState) -> MimiState:
        """The same of `decode`."""
        codes = np.zeros((1, self._said.integers["codes"]), np.int32)
        return self._warm(self.decoding, self._said, {"codes": codes}, state)

    def encode(
        self,
        pcm: npt.NDArray[np.float32] | mx.array,
        state: MimiState,
        lanes: Lanes,
        marks: list[mx.array] | None = None,  # noqa: ARG002 - a graph is evaluated whole
    ) -> tuple[mx.array, MimiState]:
        """`pcm [w, 1, 1920]` → codes `[w or more, K, 1]`, and the new state, as `Mimi.encode` does."""
        return self._call(self.encoding, self._heard, {"pcm": np.asarray(pcm)}, state, lanes)

    def decode(
        self,
        codes: npt.NDArray[np.int32] | mx.array,
        state: MimiState,
        lanes: Lanes,
        marks: list[mx.array] | None = None,  # noqa: ARG002
    ) -> tuple[mx.array, MimiState]:
        """Codes `[w, K, 1]` → `pcm [w or more, 1, 1920]`, and the new state, as `Mimi.decode` does."""
        return self._call(self.decoding, self._said, {"codes": np.asarray(codes)}, state, lanes)

    def _warm(
        self, graphs: Graphs, layout: Layout, values: dict[str, Numbers], state: MimiState
    ) -> MimiState:
        for form in self.forms():
            places = Places.nobodys(form.width, in_place=form.in_place)
            result, state = self._run(graphs, layout, places, values, state)
            mx.eval(result, state.history, state.transformer.keys, state.transformer.values)
        return state

    def _call(
        self, graphs: Graphs, layout: Layout, values: dict[str, Numbers], state: MimiState, lanes: Lanes
    ) -> tuple[mx.array, MimiState]:
        result, after = self._run(graphs, layout, Places.of(lanes, self._scratch), values, state)
        positions = state.transformer.positions.copy()
        positions[lanes] += self._whereabouts.steps
        return result, after._replace(transformer=after.transformer._replace(positions=positions))

    def _run(
        self, graphs: Graphs, layout: Layout, places: Places, values: dict[str, Numbers], state: MimiState
    ) -> tuple[mx.array, MimiState]:
        steps, context = self._whereabouts.steps, self._mimi.config.transformer.context
        rings = state.transformer
        starts = places.starts(rings.positions, self._scratch)
        told: dict[str, Numbers] = {
            "row": places.rows(self._scratch),
            "order": places.order,
            "fresh": starts == 0,
            **slots_told(starts, steps, context),
            **self._whereabouts.values(starts[:, None] + range(steps)),
            **{name: places.spread(value) for name, value in values.items()},
        }
        form = Form(places.width, places.in_place, context)
        arrays = [state.history, *rings.keys, *rings.values]
        (result,), (history, *arrays) = graphs(form, *layout.pack(told), arrays)
        layers = len(rings.keys)
        after = TransformerState(tuple(arrays[:layers]), tuple(arrays[layers:]), rings.positions)
        return result, MimiState(history, after)

    def _encode(
        self, form: Form, integers: mx.array, floats: mx.array, state: list[mx.array]
    ) -> tuple[list[mx.array], list[mx.array]]:
        told, mimi = self._heard.unpack(integers, floats), self._mimi

        def compute(history: History, attend: Attend) -> mx.array:
            heard = attend(mimi.hear(told["pcm"][:, None], history))
            return mimi.quantize(heard, history, told["fresh"][:, 0] != 0)

        return self._through(form, told, state, mimi.encoder_transformer, compute)

    def _decode(
        self, form: Form, integers: mx.array, floats: mx.array, state: list[mx.array]
    ) -> tuple[list[mx.array], list[mx.array]]:
        told, mimi = self._said.unpack(integers, floats), self._mimi

        def compute(history: History, attend: Attend) -> mx.array:
            return mimi.speak(attend(mimi.dequantize(told["codes"][:, :, None], history)), history)

        return self._through(form, told, state, mimi.decoder_transformer, compute)

    def _through(
        self,
        form: Form,
        told: dict[str, mx.array],
        state: list[mx.array],
        transformer: Transformer,
        compute: Callable[[History, Attend], mx.array],
    ) -> tuple[list[mx.array], list[mx.array]]:
        """One direction: `compute` on the places' rows of `state`, what follows written to the lanes' own."""
        packed, *rings = state
        rows, layers = told["row"][:, 0], len(transformer.layers)
        attention = transformer.layers[0].self_attn
        plan = MaskedPlan.of(form, told, context=transformer.config.context, attention=attention)
        after: list[mx.array] = []

        def attend(x: mx.array) -> mx.array:
            rows, rotation = self._whereabouts.place(x.reshape(-1, x.shape[-1]), told)
            rows, keys, values = transformer.through(rows, rings[:layers], rings[layers:], plan, rotation)
            after.extend([*keys, *values])
            return rows.reshape(x.shape)

        history = History(packed[: form.width] if form.in_place else packed[rows])
        result = compute(history, attend)
        written = mx.array(packed)
        written[rows] = history.repacked()
        return [result[told["order"][:, 0]]], [written, *after]
