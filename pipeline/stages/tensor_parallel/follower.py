"""A rank behind the first: it has no sessions and no sockets of its own, and does what rank 0 does.

From the first round on it answers each one, also while its share is still being loaded on another
thread, so that rank 0 knows all the time that it is there.
"""

import threading
import time
from collections.abc import Callable

import mlx.core as mx

from pipeline.models.evaluation import settle
from pipeline.models.layers.transformer import TransformerState
from pipeline.models.lm import LmModel
from pipeline.stages.tensor_parallel.collective import Rounds
from pipeline.stages.tensor_parallel.messages import Order, StepOrder, Word


class Follower:
    """One rank's share, kept in step with rank 0's; `load` reads it."""

    def __init__(self, rounds: Rounds, load: Callable[[], LmModel]) -> None:
        self._rounds = rounds
        self._load = load
        self._model: LmModel | None = None
        self._state: TransformerState | None = None
        self._leaving = False
        self._heard_s = time.monotonic()
        self.steps = 0
        self.stepping = False
        self.failure: BaseException | None = None

    @property
    def silent_s(self) -> float:
        """For how long there has been no round, and no step has been finished."""
        return time.monotonic() - self._heard_s

    def leave(self) -> None:
        """Ask rank 0 to end the service; it will tell when."""
        self._leaving = True

    def run(self) -> int:
        """Follow until told to end; the exit code.

        Raises:
            RanksLostError: rank 0, or another one, has gone.
            StateLostError: a step failed here.
            StartupError: the share could not be loaded; rank 0 was told.
        """
        threading.Thread(target=self._load_it, name="loading", daemon=True).start()
        form = self._rounds.form
        while True:
            orders = self._rounds.exchange(form.message(word=self._word()))[:1]
            self._heard_s = time.monotonic()
            match Order(int(orders["order"][0])):
                case Order.BEAT:
                    time.sleep(int(orders["value"][0]) / 1000)
                case Order.STEP:
                    self.stepping = True
                    self._step(form.step_in(orders))
                    self.stepping = False
                    self._heard_s = time.monotonic()
                case Order.END:
                    if self.failure is not None:
                        raise self.failure
                    return int(orders["value"][0])

    def _load_it(self) -> None:
        try:
            self._model = self._load()
        except BaseException as error:  # noqa: BLE001 - carried to the caller of `run`
            self.failure = error

    def _word(self) -> Word:
        word = Word.LEAVING if self._leaving else Word.LOADING
        if self.failure is not None:
            return word | Word.FAILED
        return word if self._model is None else word | Word.LOADED

    def _step(self, step: StepOrder) -> None:
        model = self._model
        assert model is not None, "rank 0 waits until all have loaded"
        state = model.state(self._rounds.form.rows) if self._state is None else self._state
        for row in step.resets:
            state = model.reset(state, row)
        marks: list[mx.array] = []
        token, codes, self._state = model.step(
            step.text[:, None], step.audio[:, :, None], state, step.rows, step.batch, marks=marks
        )
        settle("follower", token, codes, state=self._state, marks=marks)
        self.steps += 1
