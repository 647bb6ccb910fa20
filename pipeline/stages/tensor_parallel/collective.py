"""A round: every rank hands in a message, and every rank has them all. Nothing else keeps the ranks in step.

There is one round before each step, and where there are no steps rank 0 calls rounds all the
same, so that each knows that the others are there. Between two rounds of a session MLX waits at
full speed; while nothing happens the others are told to sleep until shortly before the next.

Rank 0's end is `Lead`. The other ranks' is `follower`, what is said `orders`.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, RanksLostError, WeightsError
from pipeline.stages.tensor_parallel.messages import Form, Order, StepOrder, Word

BEAT_S: Final = 1.0  # at least so often each rank hears of the others
# Nobody has taken a step for so long: the others sleep between beats, which cost less than waiting does.
IDLE_S: Final = 1.0
NAP_S: Final = 0.05  # the most that the first step after that is late
_WAKES: Final = 0.8  # of a nap, when the sleeper should be back
_END_S: Final = 2.0  # for telling the others to end, of whom one may not be listening any more


class Rounds:
    """The rounds of one group, on whichever thread calls them, one at a time.

    Raises, from every round:
        RanksLostError: a rank has gone.
    """

    def __init__(self, group: mx.distributed.Group, form: Form) -> None:
        self.group = group
        self.form = form

    def exchange(self, mine: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
        """Hand in `mine [1]`; all messages `[ranks]`."""
        return self._gathered(mine.view(np.int32)[None]).reshape(-1).view(self.form.dtype)

    def agree(self, digest: bytes) -> None:
        """Make sure that all ranks were started for the same; before any other round.

        Raises:
            ConfigError: they were not.
        """
        mine = np.frombuffer(digest, np.int32)[None]
        for rank, theirs in enumerate(self._gathered(mine)):
            if not np.array_equal(theirs, mine[0]):
                raise ConfigError(
                    "mlx.launch",
                    f"rank {rank} was started with another configuration, weights, device or version "
                    f"than rank {self.group.rank()}",
                )

    def _gathered(self, mine: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        try:
            everybody = mx.distributed.all_gather(mx.array(mine), group=self.group)
            mx.eval(everybody)
        except RuntimeError as error:
            raise RanksLostError(f"another rank has ended: {error}") from None
        return np.array(everybody)


class Lead:
    """Rank 0's end of the rounds: steps and beats take turns, and what the others answer is known.

    After a failure no round is tried again: MLX would wait for ever.
    """

    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds
        self._others = rounds.group.size() - 1
        self._turn = threading.Lock()
        self._began_s: float | None = None  # of the turn that is being taken
        self._stepping = False
        self._stepped_s = self._told_s = time.monotonic()
        self._words: list[Word] = []
        self._heard = threading.Condition()
        self._lost: RanksLostError | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._beat, name="beats", daemon=True).start()

    @property
    def leaving(self) -> bool:
        """Whether another rank was told to end, and all should."""
        return any(Word.LEAVING in word for word in self._words)

    @property
    def lost(self) -> RanksLostError | None:
        """Why there will be no further round; None while there can be."""
        return self._lost

    def silent_s(self, *, stepping: bool) -> float:
        """For how long the turn that is being taken, a step or a beat, has lasted; 0 where there is none."""
        began_s = self._began_s
        return 0.0 if began_s is None or self._stepping != stepping else time.monotonic() - began_s

    def wait_loaded(self) -> None:
        """Return when all ranks have loaded their share.

        Raises:
            WeightsError: one could not.
            RanksLostError: one has gone.
        """
        with self._heard:
            self._heard.wait_for(lambda: self._lost or self._failed() or self._all_loaded())
        if self._lost is not None:
            raise self._lost
        if (rank := self._failed()) is not None:
            raise WeightsError(f"rank {rank}", "could not load its share of the model, and said why itself")

    @contextlib.contextmanager
    def step(self, order: StepOrder) -> Iterator[None]:
        """Order a step; within the context, no other round comes between what it exchanges.

        Raises:
            RanksLostError: a rank has gone.
        """
        with self._taken(stepping=True):
            self._tell(self.rounds.form.of_step(order))
            yield
            self._stepped_s = time.monotonic()

    def end(self, code: int) -> None:
        """Tell the others to end with `code`, if they can still be told."""
        self._ended.set()

        def tell() -> None:
            with contextlib.suppress(RanksLostError), self._taken(stepping=False):
                self._tell(self.rounds.form.message(Order.END, value=code))

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        teller.join(_END_S)

    def _beat(self) -> None:
        while not self._ended.wait(NAP_S):
            now_s = time.monotonic()
            idle = now_s - self._stepped_s > IDLE_S
            if not idle and now_s - self._told_s < BEAT_S:
                continue
            nap_ms = round(1000 * NAP_S * _WAKES) if idle else 0
            try:
                with self._taken(stepping=False):
                    if not self._ended.is_set():
                        self._tell(self.rounds.form.message(Order.BEAT, value=nap_ms))
            except RanksLostError:
                return

    @contextlib.contextmanager
    def _taken(self, *, stepping: bool) -> Iterator[None]:
        with self._turn:
            if self._lost is not None:
                raise self._lost
            self._stepping, self._began_s = stepping, time.monotonic()
            try:
                yield
            except Exception as error:
                # Also where it is this rank's own: the others are in the middle of what it left.
                with self._heard:
                    self._lost = RanksLostError(str(error))
                    self._heard.notify_all()
                raise
            finally:
                self._began_s = None

    def _tell(self, message: npt.NDArray[np.void]) -> None:
        answers = self.rounds.exchange(message)
        with self._heard:
            self._words = [Word(word) for word in answers["word"][1:].tolist()]
            self._heard.notify_all()
        self._told_s = time.monotonic()

    def _failed(self) -> int | None:
        return next((rank for rank, word in enumerate(self._words, 1) if Word.FAILED in word), None)

    def _all_loaded(self) -> bool:
        return len(self._words) == self._others and all(Word.LOADED in word for word in self._words)
