"""The stepper stage: the language model with every lane's KV cache, delayed tokens, text and sampling."""

from collections import deque
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline import backend
from pipeline.models.compiled.lm import CompiledLm
from pipeline.models.evaluation import EvalSchedule, evaluate
from pipeline.models.lm import LmModel, LmStep
from pipeline.models.sampling import SamplingBatch
from pipeline.stages.batch import bucket_widths, padded, padded_rows
from pipeline.stages.delays import DelayedTokenCache, DelayPattern
from pipeline.stages.tensor_parallel.leader import Leader
from pipeline.stages.text import Detokenizer, Utterance, UtteranceRules
from pipeline.values import Codes, SamplingParams, StepResult, Text


class _Session:
    """What one session keeps besides the model's state."""

    def __init__(self, sampling: SamplingParams, utterance: Utterance) -> None:
        self.utterance = utterance
        self.configure(sampling)

    def configure(self, sampling: SamplingParams) -> None:
        self.sampling = sampling
        # Only a repetition penalty needs the tokens.
        window = sampling.repetition_window if sampling.repetition_penalty != 1 else 0
        self.repetition_context: deque[int] = deque(maxlen=window)


class StepperStage:
    """User codes in, agent codes and text out. Used from one thread, the one that made it."""

    def __init__(
        self,
        model: LmModel | Leader,
        lanes: int,
        detokenizer: Detokenizer,
        rules: UtteranceRules,
        *,
        compiles: bool | None = None,
    ) -> None:
        """State for `lanes` lanes and the scratch row; every width of a batch is computed once to warm up.

        `compiles`: whether to use compiled functions; by default, as the backend decides.
        """
        config = model.config
        self._model = model
        self._scratch = lanes
        self._state = model.state(lanes + 1)
        self._tokens = DelayedTokenCache(
            DelayPattern(
                config.delays, config.dep_q, text_initial=config.text_card, audio_initial=config.card
            ),
            lanes + 1,
        )
        self._user_codebooks = config.n_q - config.dep_q
        self._detokenizer = detokenizer
        self._rules = rules
        self._sessions: dict[int, _Session] = {}
        machine = backend.prepare()
        self._in_buckets = machine.pads_batches
        self._schedule = EvalSchedule()
        self._lm_step: LmStep
        if isinstance(model, Leader):  # not compiled: the ranks wait for each other within a step
            self._lm_step = model.step
        elif machine.compiles if compiles is None else compiles:
            compiled = CompiledLm(model, lanes)
            self._lm_step = compiled.step
            self._in_buckets = False  # a compiled function assigns lanes to the slots of its batch itself
            self._state = compiled.warmup(self._state)
            return
        else:
            self._lm_step = partial(model.step, schedule=self._schedule)
        for width in bucket_widths(lanes):
            self._run_scratch(width)

    def open(self, lane: int, sampling: SamplingParams) -> None:
        """Reset the lane's row for a new session."""
        self._state = self._model.reset(self._state, lane)
        self._tokens.reset(lane)
        self._sessions[lane] = _Session(sampling, Utterance(self._rules, self._detokenizer))

    def configure(self, lane: int, sampling: SamplingParams) -> None:
        """Change the lane's sampling from its next step on; its state stays."""
        self._sessions[lane].configure(sampling)

    def close(self, lane: int) -> tuple[Text, ...]:
        """End the lane's session; returns the text of the utterance that this ends."""
        return self._sessions.pop(lane).utterance.close()

    def step(self, lanes: Sequence[int], codes: npt.NDArray[np.int32]) -> list[StepResult]:
        """One step per lane: the users' `codes [n, K]`, K at least the codebooks that the model takes."""
        rows = padded_rows(lanes, self._scratch, in_buckets=self._in_buckets)
        if len(rows) > len(lanes):  # or the scratch row's sequence, and its cost, would grow without end
            self._state = self._model.reset(self._state, self._scratch)
        sessions = [self._sessions[lane] for lane in lanes]
        inputs = self._tokens.read(lanes, codes[:, : self._user_codebooks])  # [n, 1 + n_q]
        batch = SamplingBatch.of(
            [session.sampling for session in sessions],
            self._tokens.steps[list(lanes)].tolist(),
            [session.repetition_context for session in sessions],
            self._model.config.dep_q,
            len(rows),
        )
        text, audio = self._run(rows, padded(inputs, len(rows)), batch)
        text, audio = text[: len(lanes)], audio[: len(lanes)]
        frames = self._tokens.push(lanes, text, audio)
        return [
            self._finish(session, int(token), frame)
            for session, token, frame in zip(sessions, text, frames, strict=True)
        ]

    def warmup(self, *, reset: bool) -> None:
        """Take one step on the scratch row, after resetting it if `reset`; no session changes."""
        if reset:
            self._state = self._model.reset(self._state, self._scratch)
        self._run_scratch(width=1)

    def _run_scratch(self, width: int) -> None:
        self._run(
            np.full(width, self._scratch, np.int32),
            np.tile(self._tokens.pattern.initial, (width, 1)),
            SamplingBatch.of([SamplingParams()], [0], [()], self._model.config.dep_q, width),
        )

    def _finish(self, session: _Session, token: int, frame: Codes | None) -> StepResult:
        if token not in self._rules.padding:
            session.repetition_context.append(token)
        return StepResult(token, session.utterance.step(token), frame)

    def _run(
        self, rows: npt.NDArray[np.int32], inputs: npt.NDArray[np.int32], batch: SamplingBatch
    ) -> tuple[Codes, Codes]:
        """`inputs [w, 1 + n_q]` → text `[w]`, audio `[w, dep_q]`; the one synchronisation of a step."""
        self._schedule.clear()  # of a step that failed
        text, audio, self._state = self._lm_step(inputs[:, :1], inputs[:, 1:, None], self._state, rows, batch)
        evaluate("stepper", text, audio, state=self._state, schedule=self._schedule)
        return np.array(text), np.array(audio)
