"""A prompt's tokens stand where NVIDIA's code has them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PromptError
from pipeline.models.checkpoint.voices import read_published_voice
from pipeline.models.prompt import PADDING, SILENCE, SILENT_FRAMES, SINE, prompt_inputs, tagged
from pipeline.values import Prompt, Voice

FOLDER = Path(__file__).parents[1] / "data" / "families" / "personaplex_prompts"
DELAYS = (0, *(0, 1, 1, 1, 1, 1, 1, 1) * 2)
INITIAL = np.array([48] + [2048] * 16, np.int32)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "prompts.npz") as arrays:
        return dict(arrays)


def laid_out(voice: Voice | None = None, role: tuple[int, ...] = ()):
    return prompt_inputs(Prompt("key", voice, role), DELAYS, INITIAL)


@given(frames=st.integers(2, 9), role=st.lists(st.integers(0, 47), max_size=9))
def test_a_prompt_has_its_voice_two_silences_and_a_token_for_each_frame(frames, role):
    """Both silences are there even if the role is empty; each codebook is late by its delay."""
    codes = np.random.default_rng(frames).integers(0, 2048, (frames, 8)).astype(np.int32)
    inputs = laid_out(Voice(codes=codes), tuple(role))
    length = frames + 2 * SILENT_FRAMES + len(role)
    assert inputs.positions == length
    grid = np.concatenate([inputs.tokens, inputs.ahead])
    assert grid[0].tolist() == INITIAL.tolist()
    assert grid[1, 2:9].tolist() == [2048] * 7  # the first frame is lost whole
    assert grid[1:frames, 1].tolist() == codes[1:, 0].tolist()
    assert grid[2 : frames + 1, 2:9].tolist() == codes[1:, 1:].tolist()
    text = [PADDING] * (frames + SILENT_FRAMES - 1) + role + [PADDING] * SILENT_FRAMES
    assert grid[1:length, 0].tolist() == text
    assert grid[length, 2:9].tolist() == list(SILENCE[1:])
    assert grid[length, 10:].tolist() == list(SINE[1:])
    assert grid[length, [0, 1, 9]].tolist() == [-1, -1, -1]


def test_a_published_voice_continues_as_the_recording_it_was_made_from(golden):
    """From the position after its embeddings on, every token is the same."""
    recorded = laid_out(Voice(codes=golden["voice"].astype(np.int32)), tuple(golden["role"].tolist()))
    published = laid_out(read_published_voice(FOLDER / "voice.pt"), tuple(golden["role"].tolist()))
    assert published.positions == recorded.positions
    assert published.embeddings is not None
    skipped = len(published.embeddings)
    assert skipped == len(golden["voice"]) - 1
    np.testing.assert_array_equal(published.tokens, recorded.tokens[skipped:])
    np.testing.assert_array_equal(published.ahead, recorded.ahead)


def test_without_a_voice_the_first_silent_frame_is_lost():
    """A role alone begins with silence."""
    inputs = laid_out(role=(5, 6))
    assert inputs.positions == 2 * SILENT_FRAMES + 2
    assert inputs.tokens[SILENT_FRAMES, 0] == 5


@pytest.mark.parametrize(
    ("role", "text"),
    [
        (" You are Ann. ", "<system> You are Ann. <system>"),
        ("<system> x <system>", "<system> x <system>"),
        ("<system> x", "<system> <system> x <system>"),
        ("<system>", "<system>"),
        ("   ", "<system>  <system>"),
    ],
)
def test_a_role_is_wrapped_in_tags_as_the_original_does(role, text):
    """Unless it begins and ends with one."""
    assert tagged(role) == text


def test_a_model_of_another_shape_takes_no_prompts():
    """Its codebooks are not PersonaPlex's."""
    with pytest.raises(PromptError, match="eight codebooks"):
        prompt_inputs(Prompt("key", None, (5,)), (0, 0, 1, 0, 1), INITIAL[:5])


def test_a_voice_of_another_model_is_refused():
    """Its tokens do not fit the delays."""
    voice = Voice(embeddings=np.zeros((3, 16), np.float32), tail=np.zeros((2, 9), np.int32))
    with pytest.raises(PromptError, match="other delays"):
        laid_out(voice)
