"""A step of the language model as one graph, depformer and dice included; one synchronisation a step."""

import mlx.core as mx
import numpy as np

from pipeline.models.compiled.attention import MaskedPlan, slots_told
from pipeline.models.compiled.graphs import Graphs
from pipeline.models.compiled.inputs import Layout, Numbers, Whereabouts
from pipeline.models.compiled.sampling import ArrayDrawing, sampling_columns, sampling_values
from pipeline.models.compiled.slots import Form, Places, seats, slot_counts, slots_for
from pipeline.models.layers.attention import Lanes
from pipeline.models.layers.linear import settle
from pipeline.models.layers.transformer import TransformerState
from pipeline.models.lm import LmModel, Tokens
from pipeline.models.sampling import SamplingBatch


class CompiledLm:
    """`LmModel.step` for a state of `lanes` sessions and the scratch row: the same tokens, the same state.

    What a call returns is as wide as its graph: the lanes in their order, then what is nobody's.
    """

    def __init__(self, model: LmModel, lanes: int) -> None:
        mx.eval(model.parameters())  # a graph would compute what is not there yet in every step
        settle(model)
        c = model.config
        integers, floats = sampling_columns(c.dep_q)
        self._model = model
        self._scratch = lanes
        self._begins = tuple(part * (lanes + 1) for part in range(model.rows_per_session))
        self._whereabouts = Whereabouts(c.transformer, steps=1)
        self._layout = Layout(
            {"row": 1, "order": 1, "slots": 1, "filled": 1, "tokens": 1 + c.n_q, **integers},
            self._whereabouts.columns | floats,
        )
        self.graphs = Graphs(self._traced)

    def forms(self) -> list[Form]:
        """Everything that is ever compiled."""
        counts = slot_counts(self._model.config.transformer.context)
        return [Form(*seat, slots) for seat in seats(self._scratch) for slots in counts]

    def warm(self, state: TransformerState) -> TransformerState:
        """Compile every form, lest a session wait for it; of the state, only the scratch row is touched."""
        c = self._model.config
        nothing = np.zeros((1, 1 + c.n_q, 1), np.int32)
        for form in self.forms():
            places = Places.nobodys(form.width, in_place=form.in_place)
            text, audio, state = self._run(form, places, nothing, state, SamplingBatch.greedy(1))
            mx.eval(text, audio, state.keys, state.values)
        return state

    def step(
        self,
        text: Tokens,
        audio: Tokens,
        state: TransformerState,
        lanes: Lanes,
        sampling: SamplingBatch | None = None,
        *,
        marks: list[mx.array] | None = None,  # noqa: ARG002 - a graph is evaluated whole
    ) -> tuple[mx.array, mx.array, TransformerState]:
        """Advance `lanes [w]`, those that are nobody last, as `LmModel.step` does."""
        places = Places.of(lanes, self._scratch)
        rows = np.concatenate([lanes + begin for begin in self._begins])
        positions = state.positions.copy()
        positions[rows] += 1
        asked = positions[lanes if not len(places.lanes) else places.lanes]
        context = self._model.config.transformer.context
        form = Form(places.width, places.in_place, slots_for(min(int(asked.max()), context), context))
        inputs = self._model.inputs(text, audio)
        batch = sampling or SamplingBatch.greedy(len(lanes))
        next_text, next_audio, state = self._run(form, places, inputs, state, batch)
        return next_text, next_audio, state._replace(positions=positions)

    def _run(
        self, form: Form, places: Places, inputs: Tokens, state: TransformerState, batch: SamplingBatch
    ) -> tuple[mx.array, mx.array, TransformerState]:
        c = self._model.config
        starts = places.starts(state.positions, self._scratch)
        drawing = sampling_values(batch, c.dep_q)
        told: dict[str, Numbers] = {
            "row": places.rows(self._scratch),
            "order": places.order,
            "tokens": places.spread(inputs),
            **slots_told(starts, 1, c.transformer.context),
            **self._whereabouts.values(starts[:, None]),
            **{name: places.spread(values) for name, values in drawing.items()},
        }
        rings = [*state.keys, *state.values]
        (text, audio), rings = self.graphs(form, *self._layout.pack(told), rings)
        layers = len(state.keys)
        return text, audio, TransformerState(tuple(rings[:layers]), tuple(rings[layers:]), state.positions)

    def _traced(
        self, form: Form, integers: mx.array, floats: mx.array, rings: list[mx.array]
    ) -> tuple[list[mx.array], list[mx.array]]:
        """What `LmModel.step` computes, of arrays alone."""
        model, config = self._model, self._model.config
        transformer = model.transformer
        told = self._layout.unpack(integers, floats)
        plan = MaskedPlan.of(
            form,
            told,
            context=config.transformer.context,
            attention=transformer.layers[0].self_attn,
            begins=self._begins,
        )
        heard = model.hear_all(told["tokens"][:, :, None])[:, 0]  # [w, D], or [2w, D] with guidance
        x, rotation = self._whereabouts.place(heard, told)
        layers = len(transformer.layers)
        x, keys, values = transformer.through(x, rings[:layers], rings[layers:], plan, rotation)
        text, audio = model.say(x, ArrayDrawing(told, config.existing_text_padding_id))
        order = told["order"][:, 0]
        return [text[order], audio[order]], [*keys, *values]
