"""A rank other than rank 0: it has no sessions and no sockets, and takes the steps that rank 0 takes.

It takes part in every exchange from the first one on, also while its shard is still loading on
another thread, so that rank 0 always knows that it is alive.
"""

import threading
import time
from collections.abc import Callable

from pipeline.models.evaluation import EvalSchedule, evaluate
from pipeline.models.layers.transformer import RingKVCache
from pipeline.models.lm import LmModel
from pipeline.stages.tensor_parallel.collective import Collective
from pipeline.stages.tensor_parallel.messages import Command, RankStatus, StepCommand


class Follower:
    """One rank's shard of a model, kept in step with rank 0's; `load` loads it."""

    def __init__(self, collective: Collective, load: Callable[[], LmModel]) -> None:
        self._collective = collective
        self._load = load
        self._model: LmModel | None = None
        self._state: RingKVCache | None = None
        self._leaving = False
        self._active_s = time.monotonic()
        self.steps = 0
        self.stepping = False
        self.failure: BaseException | None = None

    @property
    def silent_s(self) -> float:
        """Seconds since the last exchange, or the end of the last step."""
        return time.monotonic() - self._active_s

    def leave(self) -> None:
        """Ask rank 0 to end the service; this rank ends when rank 0 does."""
        self._leaving = True

    def run(self) -> int:
        """Take part until rank 0 ends the service; returns the exit code.

        Raises:
            RanksLostError: rank 0, or another one, has gone.
            StateLostError: a step failed here.
            StartupError: the shard could not be loaded; rank 0 knows.
        """
        threading.Thread(target=self._load_model, name="loading", daemon=True).start()
        layout = self._collective.layout
        while True:
            message = self._collective.exchange(layout.message(status=self._status()))[:1]
            self._active_s = time.monotonic()
            match Command(int(message["command"][0])):
                case Command.HEARTBEAT:
                    time.sleep(int(message["value"][0]) / 1000)
                case Command.STEP:
                    self.stepping = True
                    self._step(layout.unpack_step(message))
                    self.stepping = False
                    self._active_s = time.monotonic()
                case Command.END:
                    if self.failure is not None:
                        raise self.failure
                    return int(message["value"][0])

    def _load_model(self) -> None:
        try:
            self._model = self._load()
        except BaseException as error:  # noqa: BLE001 - carried to the caller of `run`
            self.failure = error

    def _status(self) -> RankStatus:
        status = RankStatus.LEAVING if self._leaving else RankStatus.LOADING
        if self.failure is not None:
            return status | RankStatus.FAILED
        return status if self._model is None else status | RankStatus.LOADED

    def _step(self, step: StepCommand) -> None:
        model = self._model
        assert model is not None, "rank 0 takes no step before all ranks have loaded"
        state = model.state(self._collective.layout.rows) if self._state is None else self._state
        for row in step.resets:
            state = model.reset(state, row)
        schedule = EvalSchedule()
        token, codes, self._state = model.step(
            step.text[:, None], step.audio[:, :, None], state, step.rows, step.batch, schedule=schedule
        )
        evaluate("follower", token, codes, state=self._state, schedule=schedule)
        self.steps += 1
