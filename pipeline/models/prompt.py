"""Prompts: the frames a session begins with, so that the model takes on a voice and a role (PersonaPlex).

A prompt is a sequence of frames that are given instead of sampled: the voice, six silent frames, the role
text with one token per frame, six silent frames. The user plays a fixed sine throughout. Each codebook stands
at its own delay, as everywhere, so the prompt's last frame reaches `max_delay` positions into the
conversation: `PromptInputs.ahead`.

What belongs here: which token stands where. The transformer's pass over it: `LmModel.prefill`; keeping the
result: `pipeline.stages.prompts`; reading voice files: `pipeline.models.checkpoint.voices`.
Source: NVIDIA/personaplex (3428dfd), `moshi/models/lm.py`: the same tokens from the first frame of the
conversation on, which the goldens in `tests/data/families/personaplex_prompts` hold it to.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.errors import PromptError
from pipeline.models.checkpoint.lm_config import LmConfig
from pipeline.values import Prompt

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

# Codes of Mimi's published weights: silence, and a 440 Hz sine, which PersonaPlex was trained to take for
# "the user has not begun". They are constants of the model, never encoded at run time.
SILENCE: Final = (948, 243, 1178, 546, 1736, 1030, 1978, 2008)
SINE: Final = (430, 1268, 381, 1611, 1095, 1495, 56, 472)
CODEBOOKS: Final = len(SILENCE)  # of each voice
PADDING: Final = 3  # the text token of a frame without text; a constant of the model too
SILENT_FRAMES: Final = 6  # half a second, after the voice and after the role
TAG: Final = "<system>"
EMPTY: Final = -1  # in `ahead`: sampled by the model, or filled by the user


@dataclass(frozen=True, slots=True)
class PromptInputs:
    """The model's inputs at positions 0 to P − 1: first `embeddings [E, D]`, then `tokens [P − E, 1 + n_q]`.

    `ahead [max_delay, 1 + n_q]` holds the tokens that are given at positions P, P + 1, …; `EMPTY` elsewhere.
    """

    embeddings: Floats | None
    tokens: Ints
    ahead: Ints

    @property
    def positions(self) -> int:
        """P, the prompt's length."""
        return len(self.tokens) + (0 if self.embeddings is None else len(self.embeddings))


def tagged(role: str) -> str:
    """The role between its tags, as the model was trained; a role that is tagged already stays as it is."""
    text = role.strip()
    return text if text.startswith(TAG) and text.endswith(TAG) else f"{TAG} {text} {TAG}"


def prompt_inputs(prompt: Prompt, delays: tuple[int, ...], initial: Ints) -> PromptInputs:
    """Lay a prompt out in positions, for a model with `delays [1 + n_q]` and `initial [1 + n_q]` tokens.

    A codebook's first `delay + 1` positions hold its initial token whatever the prompt says, so the frame 0
    is lost, as in the original.

    Raises:
        PromptError: the model has another number of codebooks, or delays that the voice was not made for.
    """
    if len(delays) != 1 + 2 * CODEBOOKS:
        raise PromptError("this model takes no prompts: it has not eight codebooks for each voice")
    voice = prompt.voice
    frames = _frames(prompt)  # [P, 1 + n_q]
    shifts = np.array(delays)
    positions = np.arange(len(frames) + max(delays))[:, None]
    index = positions - shifts  # the frame that stands there
    given = (index >= 0) & (index < len(frames))
    grid = np.where(
        given, np.take_along_axis(frames, np.clip(index, 0, len(frames) - 1), axis=0), np.int32(EMPTY)
    )
    grid = np.where(positions <= shifts, initial, grid).astype(np.int32)
    embeddings = None
    if voice is not None and voice.embeddings is not None:
        if max(delays) != 1 or voice.tail is None or voice.tail.shape != (2, len(delays)):
            raise PromptError("the voice file was made for a model with other delays")
        embeddings = voice.embeddings
        last = voice.frames - 1
        grid[last] = voice.tail[0]
        grid[last + 1] = np.where(shifts == 1, voice.tail[1], grid[last + 1])
    begin = 0 if embeddings is None else len(embeddings)
    return PromptInputs(embeddings, grid[begin : len(frames)], grid[len(frames) :])


def check_prompt(inputs: PromptInputs, config: LmConfig, *, pin: bool = False) -> None:
    """Check that a model of these sizes can begin with the prompt, and with `pin` keep it.

    Raises:
        PromptError: it is too long, or was made for another model.
    """
    if inputs.positions >= config.context:
        raise PromptError(
            f"the prompt has {inputs.positions} frames, and the model attends to {config.context}: "
            "shorten the role"
        )
    if pin and 2 * inputs.positions > config.context:
        raise PromptError(
            f"the prompt has {inputs.positions} frames and would be kept in more than half of the model's "
            f"{config.context}: shorten the role"
        )
    if inputs.embeddings is not None and inputs.embeddings.shape[1] != config.dim:
        raise PromptError(
            f"the voice was made for a model of width {inputs.embeddings.shape[1]}, not {config.dim}"
        )
    text, audio = inputs.tokens[:, 0], inputs.tokens[:, 1:]
    if text.max() > config.text_card or audio.max() > config.card:
        raise PromptError("the voice or the role has tokens that this model does not have")


def _frames(prompt: Prompt) -> Ints:
    """The prompt's frames `[P, 1 + n_q]`; those of a voice of embeddings are zeros, which nothing reads."""
    voice, role = prompt.voice, list(prompt.role)
    spoken = np.zeros((0 if voice is None else voice.frames, CODEBOOKS), np.int32)
    if voice is not None and voice.codes is not None:
        spoken = voice.codes
    text = [PADDING] * (len(spoken) + SILENT_FRAMES) + role + [PADDING] * SILENT_FRAMES
    silent = np.tile(np.array(SILENCE, np.int32), (len(text) - len(spoken), 1))
    agent = np.concatenate([spoken, silent])
    user = np.tile(np.array(SINE, np.int32), (len(text), 1))
    return np.concatenate([np.array(text, np.int32)[:, None], agent, user], axis=1)
