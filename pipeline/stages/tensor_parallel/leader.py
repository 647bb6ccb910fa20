"""Rank 0 of a model that is split over several ranks, with the interface of a whole model.

Only rank 0 has sessions, delays and text. In the one exchange before a step the other ranks get
the step's input tokens, sampling parameters and random numbers; all ranks then compute the same
logits and sample the same tokens, which need not be exchanged.
"""

import mlx.core as mx

from pipeline.errors import RanksLostError
from pipeline.models.checkpoint.lm_config import LmConfig
from pipeline.models.evaluation import EvalSchedule, evaluate
from pipeline.models.layers.attention import Lanes
from pipeline.models.layers.transformer import RingKVCache
from pipeline.models.lm import LmModel, Tokens
from pipeline.models.sampling import SamplingBatch
from pipeline.stages.tensor_parallel.collective import Coordinator
from pipeline.stages.tensor_parallel.messages import StepCommand


class Leader:
    """The part of `LmModel` that a stepper uses, computed by all ranks; its state is rank 0's shard."""

    def __init__(self, model: LmModel, coordinator: Coordinator) -> None:
        self._model = model
        self._coordinator = coordinator
        self._resets: set[int] = set()

    @property
    def config(self) -> LmConfig:
        """The sizes of the whole model."""
        return self._model.config

    def state(self, rows: int) -> RingKVCache:
        """The state of `rows` new sessions; the other ranks make their own."""
        return self._model.state(rows)

    def reset(self, state: RingKVCache, row: int) -> RingKVCache:
        """The state with `row` reset; the other ranks reset theirs before the next step."""
        self._resets.add(row)
        return self._model.reset(state, row)

    def step(
        self,
        text: Tokens,
        audio: Tokens,
        state: RingKVCache,
        lanes: Lanes,
        sampling: SamplingBatch | None = None,
    ) -> tuple[mx.array, mx.array, RingKVCache]:
        """An `LmStep`, evaluated already, because no other exchange may come before that.

        Raises:
            RanksLostError: another rank has gone, or this one has failed in the middle of what all do.
        """
        batch = SamplingBatch.greedy(len(lanes)) if sampling is None else sampling
        command = StepCommand(tuple(sorted(self._resets)), lanes, text[:, 0], audio[:, :, 0], batch)
        with self._coordinator.step(command):
            self._resets.clear()
            schedule = EvalSchedule()
            try:
                token, codes, state = self._model.step(text, audio, state, lanes, batch, schedule=schedule)
                evaluate("stepper", token, codes, state=state, schedule=schedule)
            except Exception as error:
                raise RanksLostError(f"the ranks did not finish a step together: {error}") from error
        return token, codes, state
