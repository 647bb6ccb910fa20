"""The stepper stage: the language model with every lane's KV cache, delayed tokens, text and sampling."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from pipeline import backend
from pipeline.errors import PromptError
from pipeline.models.compiled.lm import CompiledLm
from pipeline.models.evaluation import EvalSchedule, evaluate
from pipeline.models.lm import LmModel, LmStep
from pipeline.models.memory import PROMPT_CACHE_BYTES
from pipeline.models.prompt import PromptInputs, check_prompt, prompt_inputs
from pipeline.models.sampling import BatchSampler, SamplingBatch
from pipeline.stages.batch import bucket_widths, padded, padded_rows
from pipeline.stages.delays import DelayedTokenCache, DelayPattern
from pipeline.stages.prompts import PromptCache, PromptEnd, PromptSnapshot
from pipeline.stages.tensor_parallel.leader import Leader
from pipeline.stages.text import Detokenizer, Utterance, UtteranceRules
from pipeline.values import Codes, Prompt, SamplingParams, StepResult, Text

PREFILL_POSITIONS = 32  # of a prompt that was not prepared


class _Session:
    """What one session keeps besides the model's state."""

    def __init__(self, sampling: SamplingParams, utterance: Utterance) -> None:
        self.utterance = utterance
        self.prompt: PromptEnd | None = None  # until the first step
        self.configure(sampling)

    def configure(self, sampling: SamplingParams) -> None:
        self.sampling = sampling
        # Only a repetition penalty needs the tokens.
        window = sampling.repetition_window if sampling.repetition_penalty != 1 else 0
        self.repetition_context: deque[int] = deque(maxlen=window)


@dataclass(slots=True)
class _Prefill:
    """A prompt on its way through the model: how many of its positions are done."""

    key: str
    inputs: PromptInputs
    done: int = 0


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
        prompt_cache_bytes: int = PROMPT_CACHE_BYTES,
        pins_prompts: bool = False,
    ) -> None:
        """State for `lanes` lanes and the scratch row; every width of a batch is computed once to warm up.

        `compiles`: whether to use compiled functions; by default, as the backend decides.
        `prompt_cache_bytes`: memory for prompts that were computed before.
        `pins_prompts`: whether a prompt stays in its lane's ring for as long as the session lasts.
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
        self._prompts = PromptCache(prompt_cache_bytes)
        self._pins = pins_prompts
        self._prefills: dict[int, _Prefill] = {}
        # Complete, until the lane begins with it: by then the cache may have dropped it for another.
        self._prepared: dict[int, tuple[str, PromptSnapshot]] = {}
        self._check_files = (lambda: None) if isinstance(model, Leader) else model.check_files
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
        self._forget_prompt(lane)
        self._state = self._model.reset(self._state, lane)
        self._tokens.reset(lane)
        self._sessions[lane] = _Session(sampling, Utterance(self._rules, self._detokenizer))

    def advance_prompt(self, lane: int, prompt: Prompt, positions: int) -> bool:
        """Compute up to `positions` more of a prompt, in a lane that has taken no step.

        Returns whether the prompt is complete; then `begin` with it takes no time.

        Raises:
            PromptError: it is too long for this model, or this model takes no prompts.
        """
        if prompt.key in self._prompts:
            self._prefills.pop(lane, None)
            self._prepared[lane] = (prompt.key, self._prompts[prompt.key])
        if lane in self._prepared and self._prepared[lane][0] == prompt.key:
            return True
        model = self._model
        if isinstance(model, Leader) or model.rows_per_session != 1:
            raise PromptError("a model that is guided, or split over several processes, takes no prompts")
        if lane not in self._prefills or self._prefills[lane].key != prompt.key:
            pattern = self._tokens.pattern
            inputs = prompt_inputs(prompt, pattern.delays, pattern.initial)
            check_prompt(inputs, model.config, pin=self._pins)
            self._state = model.reset(self._state, lane)
            self._prefills[lane] = _Prefill(prompt.key, inputs)
        prefill = self._prefills[lane]
        end = min(prefill.done + positions, prefill.inputs.positions)
        self._schedule.clear()
        x = _embed(model, prefill.inputs, prefill.done, end)
        context, self._state = model.prefill(x, self._state, lane, self._schedule)
        evaluate("stepper", context, state=self._state, schedule=self._schedule)
        self._check_files()
        prefill.done = end
        if end < prefill.inputs.positions:
            return False
        del self._prefills[lane]
        snapshot = PromptSnapshot.take(self._state, lane, end, context, prefill.inputs.ahead)
        self._prompts.add(prompt.key, snapshot)
        self._prepared[lane] = (prompt.key, snapshot)
        return True

    def begin(self, lane: int, prompt: Prompt | None) -> None:
        """Let the lane's session, which has taken no step, begin with `prompt`; with None, without.

        What `advance_prompt` has not computed is computed now.
        """
        session = self._sessions[lane]
        if prompt is None:
            self._forget_prompt(lane)
            self._state = self._model.reset(self._state, lane)
            self._tokens.reset(lane)
            session.prompt = None
            return
        while not self.advance_prompt(lane, prompt, PREFILL_POSITIONS):
            pass
        _, snapshot = self._prepared.pop(lane)
        session.prompt = snapshot.end
        self._state = snapshot.restore(
            self._state, lane, pinned=session.prompt.positions if self._pins else 0
        )
        evaluate("stepper", state=self._state)
        self._tokens.begin_at(lane, session.prompt.positions, session.prompt.ahead)
        self._sample_first(lane, session.prompt, session.sampling)

    def _sample_first(self, lane: int, prompt: PromptEnd, sampling: SamplingParams) -> None:
        """Sample what the model says first in the conversation.

        At its first position only the text and the first codebook are sampled; the others still belong to
        the prompt's last frame.
        """
        assert not isinstance(self._model, Leader), "prompts are not split over ranks"
        batch = SamplingBatch.of([sampling], [prompt.positions - 1], [()], self._model.config.dep_q, 1)
        sampler = BatchSampler(batch, self._model.config.existing_text_padding_id)
        text, audio = self._model.sample(prompt.context, sampler, codebooks=1)
        self._tokens.put(lane, 0, int(np.array(text)[0]))
        self._tokens.put(lane, 1, int(np.array(audio)[0, 0]))

    def _forget_prompt(self, lane: int) -> None:
        self._prefills.pop(lane, None)
        self._prepared.pop(lane, None)

    def configure(self, lane: int, sampling: SamplingParams) -> None:
        """Change the lane's sampling from its next step on; its state stays.

        Before the first step of a session with a prompt that includes what was sampled behind the prompt.
        """
        session = self._sessions[lane]
        session.configure(sampling)
        if session.prompt is not None and self._tokens.steps[lane] == session.prompt.positions:
            self._sample_first(lane, session.prompt, sampling)

    def close(self, lane: int) -> tuple[Text, ...]:
        """End the lane's session; returns the text of the utterance that this ends."""
        self._forget_prompt(lane)
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
        for session in sessions:
            session.prompt = None
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
        self._check_files()
        return np.array(text), np.array(audio)


def _embed(model: LmModel, inputs: PromptInputs, begin: int, end: int) -> mx.array:
    """The model's input at positions `begin` to `end`: `[1, T, D]`."""
    given = 0 if inputs.embeddings is None else len(inputs.embeddings)
    parts = []
    if begin < given:
        assert inputs.embeddings is not None
        parts.append(mx.array(inputs.embeddings[begin : min(end, given)])[None])
    if end > given:
        tokens = inputs.tokens[max(begin - given, 0) : end - given].T[None]  # [1, 1 + n_q, T]
        parts.append(model.embed_inputs(mx.array(tokens)))
    return mx.concatenate([part.astype(model.dtype) for part in parts], axis=1)
