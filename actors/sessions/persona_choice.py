"""What one session begins with: the voice and the role that its lane has, and those it asked for.

Neighbours: `session` owns it; `prompting` computes the prompts.
"""

import dataclasses

import trio

from pipeline.protocol.metadata import Configure
from pipeline.values import Persona, Prompt


class PersonaChoice:
    """The voice and the role of one session, until its first frame.

    Attributes:
        persona: what the lane begins with now.
        prompt: the same as a prompt; None for nothing.
        asked: what it is to begin with instead; None where nothing is pending.
    """

    def __init__(self, default: Persona) -> None:
        self.persona = Persona()
        self.prompt: Prompt | None = None
        self.asked: Persona | None = default if default != Persona() else None
        self._default = default
        self._begun = False  # the lane begins with `persona`, were it neither a voice nor a role
        self._changed = trio.Event()

    @property
    def pending(self) -> bool:
        """Whether the lane is not yet what was asked for."""
        return self.asked is not None

    def ask(self, change: Configure) -> None:
        """Ask for a voice or a role; what the client omits stays, and what is empty is none."""
        before = self.persona if self.asked is None else self.asked
        given = {"voice": change.voice, "role": change.role}
        named = {name: value or None for name, value in given.items() if value is not None}
        self.asked = dataclasses.replace(before, **named)
        self._notify()

    async def wait_asked(self) -> Persona:
        """Wait until something is asked for."""
        while self.asked is None:
            await self._changed.wait()
        return self.asked

    def accept(self, persona: Persona, prompt: Prompt | None) -> bool:
        """The lane can begin with it: whether that is still what is asked for."""
        if self.asked != persona:
            return False
        self.persona, self.prompt, self.asked, self._begun = persona, prompt, None, True
        return True

    def refuse(self, persona: Persona) -> None:
        """It is impossible: ask for what the lane had, or for the default where that never came about.

        It is asked for although the lane had it: another prompt may have been computed there meanwhile.
        """
        if self.asked == persona:
            has_own = self._begun or persona == self._default
            self.asked = self.persona if has_own else self._default

    def _notify(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()
