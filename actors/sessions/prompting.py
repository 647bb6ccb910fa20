"""Prompts that are computed between the batches of the sessions that talk already.

A prompt is computed in slices, in the lane of the session that asked for it. Between two slices, whichever
prompts they belong to, the stepper takes what waits, so no other lane's frame waits for longer than one
slice. A slice takes at most `SLICE_S`, or half as long again as a single position where that is longer, and
never more than a frame unless a single position does. Two sessions that ask for the same prompt wait for one
computation.

Neighbours: `session` knows what its client asked for; `pipeline.stages.stepper` computes and
keeps the result.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

import trio

from actors.runtime.stage import Stage, Worker
from actors.stepper import Stepper
from pipeline.errors import PromptError
from pipeline.units import FRAME_MS
from pipeline.values import AgentCodes, Persona, Prompt, UserCodes

SLICE_S: Final = FRAME_MS / 2000  # half a frame: the other half is left to the batch that waited
READERS: Final = 4  # of voices, at once; Trio's own threads are shared by all that needs a thread
MAX_POSITIONS: Final = 256
# On a machine whose weights take most of a step's time, many positions take little longer than one.
ALLOWED_SLOWDOWN: Final = 1.5
FORGETTING: Final = 0.99
CALIBRATION: Final = Prompt("calibration", None, (0,) * 52)  # of any tokens, and a usual length


class PersonaSource(Protocol):
    """Makes prompts of what clients ask for."""

    async def build(self, persona: Persona) -> Prompt | None:
        """The prompt; None where nothing is asked for.

        Raises:
            PromptError: there is no such voice, or the model cannot begin so.
        """
        ...


class NoPersonas:
    """For a model that takes neither a voice nor a role."""

    async def build(self, persona: Persona) -> Prompt | None:
        """Refuse everything but nothing."""
        if persona != Persona():
            raise PromptError("this model takes neither a voice nor a role")
        return None


class ThreadedPersonas:
    """Calls `build` (of `pipeline.stages.personas`), which reads files, on threads of its own."""

    def __init__(self, build: Callable[[Persona], Prompt | None]) -> None:
        self._build = build
        self._threads = trio.CapacityLimiter(READERS)

    async def build(self, persona: Persona) -> Prompt | None:
        """The prompt; reads that do not return delay only those who ask for one."""
        return await trio.to_thread.run_sync(
            self._build, persona, abandon_on_cancel=True, limiter=self._threads
        )


class SliceSize:
    """How many positions of a prompt to compute at once: as many as `SLICE_S` allows.

    What a further position costs is known from the first slice of two on. The engine computes a prompt
    before it admits anybody, so that this slice is nobody's.
    """

    def __init__(self) -> None:
        self.positions = 1
        self._one_s = 0.0
        self._further_s = 0.0  # what each position after the first takes
        self._limit_s = SLICE_S

    def record(self, taken_s: float) -> None:
        """Adapt to the duration of the last slice."""
        if self.positions == 1:
            self._one_s = taken_s
            self._limit_s = max(SLICE_S, min(ALLOWED_SLOWDOWN * taken_s, FRAME_MS / 1000))
            self._further_s *= FORGETTING  # or one slow slice would be remembered for ever
        else:
            self._further_s = max(0.0, taken_s - self._one_s) / (self.positions - 1)
        if taken_s > self._limit_s:
            self.positions = max(1, self.positions // 2)
        elif taken_s + self._further_s * self.positions <= self._limit_s:
            self.positions = min(MAX_POSITIONS, self.positions * 2)


class Prompter:
    """Makes prompts of what sessions ask for, and computes each once."""

    def __init__(self, stepper: Stage[UserCodes, AgentCodes], personas: PersonaSource) -> None:
        self._stepper = stepper
        self._personas = personas
        self._under_way: dict[str, trio.Event] = {}
        self._size = SliceSize()
        # Slices of several prompts would wait for the stepper together, and a batch for all of them.
        self._slice = trio.Lock()

    async def build(self, persona: Persona) -> Prompt | None:
        """The prompt for what a session asks for; None where it asks for nothing.

        Raises:
            PromptError: there is no such voice, or the model cannot begin so.
        """
        return None if persona == Persona() else await self._personas.build(persona)

    async def prepare(self, lane: int, prompt: Prompt, *, is_open: Callable[[], bool]) -> bool:
        """Compute a prompt for a lane without frames, unless it is kept; the lane can then begin with it.

        Returns whether it is complete: once the lane is not open any more, nothing further is computed,
        because it may soon be another session's.

        Raises:
            PromptError: the model cannot begin so.
            Exception: the model failed; the lane's state is invalid.
        """
        while prompt.key in self._under_way:
            await self._under_way[prompt.key].wait()
        done = self._under_way[prompt.key] = trio.Event()
        complete = False
        try:
            while not complete:
                async with self._slice:
                    if not is_open():  # asked here: while others had their slices, it may have been closed
                        break
                    advance = partial(_advance, lane=lane, prompt=prompt, positions=self._size.positions)
                    complete, taken_s = await self._stepper.call_between_batches(advance)
                    if not complete:  # what is kept already, or the rest of a prompt, says nothing
                        self._size.record(taken_s)
        finally:
            del self._under_way[prompt.key]
            done.set()
        return complete


def _advance(worker: Worker[Any, Any], *, lane: int, prompt: Prompt, positions: int) -> tuple[bool, float]:
    assert isinstance(worker, Stepper)
    return worker.advance_prompt(lane, prompt, positions)
