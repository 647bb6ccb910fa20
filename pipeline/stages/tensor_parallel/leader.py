"""Rank 0 of a model that several processes share: to the stepper it is the model, and the others follow it.

Tokens, delays, text and sessions are known to rank 0 alone. The others are told, in the one round
before a step, what the step takes in and the numbers it draws with; all ranks then have the same
logits, draw the same tokens, and need not tell each other which.
"""

from collections.abc import Sequence

import mlx.core as mx

from pipeline.errors import RanksLostError
from pipeline.models.checkpoint.lm_config import LmConfig
from pipeline.models.evaluation import settle
from pipeline.models.layers.attention import Lanes
from pipeline.models.layers.transformer import TransformerState
from pipeline.models.lm import LmModel, Tokens
from pipeline.models.sampling import SamplingBatch
from pipeline.stages.tensor_parallel.collective import Lead
from pipeline.stages.tensor_parallel.messages import StepOrder


class Leader:
    """What a stepper asks of an `LmModel`, done by all ranks; the state here is rank 0's share of it."""

    def __init__(self, model: LmModel, lead: Lead) -> None:
        self._model = model
        self._lead = lead
        self._resets: set[int] = set()

    @property
    def config(self) -> LmConfig:
        """The sizes of the whole model."""
        return self._model.config

    def state(self, rows: int) -> TransformerState:
        """`rows` sessions that have heard nothing; the others make theirs themselves."""
        return self._model.state(rows)

    def reset(self, state: TransformerState, row: int) -> TransformerState:
        """The state in which `row` has heard nothing; the others are told with the next step."""
        self._resets.add(row)
        return self._model.reset(state, row)

    def step(
        self,
        text: Tokens,
        audio: Tokens,
        state: TransformerState,
        lanes: Lanes,
        sampling: SamplingBatch | None = None,
        *,
        marks: Sequence[mx.array] | None = None,  # noqa: ARG002 - evaluated here already
    ) -> tuple[mx.array, mx.array, TransformerState]:
        """What `LmModel.step` gives, evaluated: no other round may come before it is.

        Raises:
            RanksLostError: another rank has gone, or this one has failed in the middle of what all do.
        """
        batch = SamplingBatch.greedy(len(lanes)) if sampling is None else sampling
        order = StepOrder(tuple(sorted(self._resets)), lanes, text[:, 0], audio[:, :, 0], batch)
        with self._lead.step(order):
            self._resets.clear()
            on_the_way: list[mx.array] = []
            try:
                token, codes, state = self._model.step(text, audio, state, lanes, batch, marks=on_the_way)
                settle("stepper", token, codes, state=state, marks=on_the_way)
            except Exception as error:
                raise RanksLostError(f"the ranks did not finish a step together: {error}") from error
        return token, codes, state
