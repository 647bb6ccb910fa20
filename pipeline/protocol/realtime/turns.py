"""When the agent begins and ends to speak, from its text and from the sound of its frames.

    SILENT ──text──▶ SPEAKING ──the utterance's end──▶ FADING ──a quiet frame──▶ SILENT
       └──a loud frame──▶ SOUNDING ──text──▶ SPEAKING
                              └──a second of quiet──▶ SILENT

Text comes with the frame in which its word begins or before; the sound of the last word may go on after the
text has ended.
"""

from enum import Enum, auto
from typing import Final

QUIET_FRAMES: Final = 13  # as many as the padding tokens after which an utterance ends
FADING_FRAMES: Final = 25  # sound after the end of its text is waited for so long


class Turn(Enum):
    """What the agent is doing."""

    SILENT = auto()
    SPEAKING = auto()
    SOUNDING = auto()
    FADING = auto()


class TurnTracker:
    """The turns of one session. Each method returns whether a turn begins, or ends, with it.

    Attributes:
        turn: what the agent is doing now.
    """

    def __init__(self) -> None:
        self.turn = Turn.SILENT
        self._loud = False
        self._frames = 0  # quiet ones while SOUNDING; all while FADING

    @property
    def is_over_with_text(self) -> bool:
        """Whether text that comes now belongs to another turn, so that this one has to end first."""
        return self.turn is Turn.FADING

    def begin_text(self) -> bool:
        """Text comes: whether a turn begins with it."""
        begins = self.turn in (Turn.SILENT, Turn.FADING)
        self.turn = Turn.SPEAKING
        return begins

    def end_text(self) -> bool:
        """The utterance has ended: whether the turn ends with it."""
        if self.turn is not Turn.SPEAKING:
            return False
        if self._loud:
            self.turn, self._frames = Turn.FADING, 0
            return False
        self.turn = Turn.SILENT
        return True

    def begin_frame(self, *, loud: bool) -> bool:
        """A frame of sound comes: whether a turn begins with it."""
        self._loud = loud
        if self.turn is not Turn.SILENT or not loud:
            return False
        self.turn, self._frames = Turn.SOUNDING, 0
        return True

    def end_frame(self) -> bool:
        """The frame was sent: whether the turn ends behind it."""
        match self.turn:
            case Turn.SOUNDING:
                self._frames = 0 if self._loud else self._frames + 1
                ends = self._frames >= QUIET_FRAMES
            case Turn.FADING:
                self._frames += 1
                ends = not self._loud or self._frames >= FADING_FRAMES
            case _:
                ends = False
        if ends:
            self.turn = Turn.SILENT
        return ends
