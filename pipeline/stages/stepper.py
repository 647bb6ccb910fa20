"""The stepper's memory: for every lane its rings, its delayed tokens, its text and its dice."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from pipeline.backend import prepare
from pipeline.models.compiled.lm import CompiledLm
from pipeline.models.evaluation import settle
from pipeline.models.lm import LmModel
from pipeline.models.sampling import SamplingBatch
from pipeline.stages.batch import IN_BUCKETS, bucket_widths, padded, padded_rows
from pipeline.stages.delays import GridShape, TokenGrid
from pipeline.stages.tensor_parallel.leader import Leader
from pipeline.stages.text import Spelling, Utterance, UtteranceRules
from pipeline.values import Codes, Sampling, Text


@dataclass(frozen=True, slots=True)
class Step:
    """What one lane's step produced: the raw text token, what it says, and a whole agent frame or None."""

    token: int
    text: tuple[Text, ...]
    codes: Codes | None


class _Session:
    """What one session keeps beside the model's state."""

    def __init__(self, sampling: Sampling, utterance: Utterance) -> None:
        self.utterance = utterance
        self.configure(sampling)

    def configure(self, sampling: Sampling) -> None:
        self.sampling = sampling
        # Only a penalty ever looks back.
        window = sampling.repetition_window if sampling.repetition_penalty != 1 else 0
        self.recent: deque[int] = deque(maxlen=window)


class StepperStage:
    """User codes in, agent codes and text out. Used from one thread, the one that made it."""

    def __init__(
        self,
        model: LmModel | Leader,
        lanes: int,
        spelling: Spelling,
        rules: UtteranceRules,
        *,
        compiles: bool | None = None,
    ) -> None:
        """State for `lanes` lanes and the scratch row; every width of a batch is computed once, to be warm.

        `compiles`: whether by compiled graphs; unless it is said, as this machine does.
        """
        config = model.config
        self._model = model
        self._scratch = lanes
        self._state = model.state(lanes + 1)
        self._grid = TokenGrid(
            GridShape(config.delays, config.dep_q, text_initial=config.text_card, audio_initial=config.card),
            lanes + 1,
        )
        self._user_codebooks = config.n_q - config.dep_q
        self._spelling = spelling
        self._rules = rules
        self._sessions: dict[int, _Session] = {}
        self._stepping: LmModel | Leader | CompiledLm = model
        self._in_buckets = IN_BUCKETS
        # What ranks share is not compiled: they wait for each other in the middle of it.
        if isinstance(model, LmModel) and (prepare().compiles if compiles is None else compiles):
            self._stepping = CompiledLm(model, lanes)
            self._in_buckets = False  # who sits where in a graph is the graph's business
            self._state = self._stepping.warm(self._state)
        else:
            for width in bucket_widths(lanes):
                self._run_scratch(width)

    def open(self, lane: int, sampling: Sampling) -> None:
        """The lane's row is as if no step had ever been taken."""
        self._state = self._model.reset(self._state, lane)
        self._grid.reset(lane)
        self._sessions[lane] = _Session(sampling, Utterance(self._rules, self._spelling))

    def configure(self, lane: int, sampling: Sampling) -> None:
        """The lane draws differently from its next step on; what it remembers stays."""
        self._sessions[lane].configure(sampling)

    def close(self, lane: int) -> tuple[Text, ...]:
        """The utterance that the end of the session closes."""
        return self._sessions.pop(lane).utterance.close()

    def step(self, lanes: Sequence[int], codes: npt.NDArray[np.int32]) -> list[Step]:
        """One step per lane: the users' `codes [n, K]`, K at least what the model hears."""
        rows = padded_rows(lanes, self._scratch, in_buckets=self._in_buckets)
        if len(rows) > len(lanes):  # or the scratch row's history would grow, and cost, for ever
            self._state = self._model.reset(self._state, self._scratch)
        sessions = [self._sessions[lane] for lane in lanes]
        inputs = self._grid.inputs(lanes, codes[:, : self._user_codebooks])  # [n, 1 + n_q]
        batch = SamplingBatch.of(
            [session.sampling for session in sessions],
            self._grid.steps[list(lanes)].tolist(),
            [session.recent for session in sessions],
            self._model.config.dep_q,
            len(rows),
        )
        text, audio = self._run(rows, padded(inputs, len(rows)), batch)
        text, audio = text[: len(lanes)], audio[: len(lanes)]
        frames = self._grid.advance(lanes, text, audio)
        return [
            self._finish(session, int(token), frame)
            for session, token, frame in zip(sessions, text, frames, strict=True)
        ]

    def rehearse(self, *, anew: bool) -> None:
        """One step of nobody: on the scratch row, whose history begins again where `anew`."""
        if anew:
            self._state = self._model.reset(self._state, self._scratch)
        self._run_scratch(width=1)

    def _run_scratch(self, width: int) -> None:
        self._run(
            np.full(width, self._scratch, np.int32),
            np.tile(self._grid.shape.initial, (width, 1)),
            SamplingBatch.of([Sampling()], [0], [()], self._model.config.dep_q, width),
        )

    def _finish(self, session: _Session, token: int, frame: Codes | None) -> Step:
        if token not in self._rules.padding:
            session.recent.append(token)
        return Step(token, session.utterance.step(token), frame)

    def _run(
        self, rows: npt.NDArray[np.int32], inputs: npt.NDArray[np.int32], batch: SamplingBatch
    ) -> tuple[Codes, Codes]:
        """`inputs [w, 1 + n_q]` → text `[w]`, audio `[w, dep_q]`; the step's one synchronisation."""
        marks: list[mx.array] = []
        text, audio, self._state = self._stepping.step(
            inputs[:, :1], inputs[:, 1:, None], self._state, rows, batch, marks=marks
        )
        settle("stepper", text, audio, state=self._state, marks=marks)
        return np.array(text), np.array(audio)
