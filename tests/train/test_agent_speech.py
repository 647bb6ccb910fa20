"""The agent's sentences, joined from phrases; and recordings that are never the same twice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.train.recipes import small_corpus

from pipeline.train.conversation.phrases import answers
from pipeline.train.recordings.bank import read_shards
from pipeline.train.recordings.perturbation import perturbed
from pipeline.train.synthesizers.agent_speech import AgentSpeech, joined_phrases, quietest
from pipeline.train.synthesizers.espeak import Synthesizer, SynthesizerError
from pipeline.train.synthesizers.speaker import Speaker
from pipeline.train.synthesizers.spoken import Sound, Spoken
from pipeline.train.synthesizers.voices import Voice
from pipeline.units import FRAME_SAMPLES

SPEAKER = Speaker("espeak", (("en-us", 1.0),))


class Espeak:
    """Speaks with times of its own, as the neural voice does; `spoken`: what it was given."""

    def __init__(self):
        self.synthesizer, self.spoken = Synthesizer(), []

    def timed(self, text, speaker):
        self.spoken.append(text)
        return self.synthesizer.synthesize(text, Voice(speaker.voice, speed=160, pitch=50))


@pytest.fixture(scope="module")
def espeak():
    try:
        return Espeak()
    except SynthesizerError as missing:
        pytest.skip(str(missing))


def test_every_sum_is_joined_from_few_phrases(espeak):
    """Each word begins with a frame, in the order of the text, and no phrase is spoken twice."""
    speech = AgentSpeech(espeak, SPEAKER)
    sentences = answers("held_out")
    for sentence in sentences:
        spoken = speech.speak(sentence)
        assert len(spoken.word_starts) == len(sentence.split())
        assert all(start % FRAME_SAMPLES == 0 for start in spoken.word_starts)
        assert list(spoken.word_starts) == sorted(set(spoken.word_starts))
        assert len(spoken.pcm) % FRAME_SAMPLES == 0
        assert spoken.word_starts[-1] < len(spoken.pcm)
    small_talk = len(sentences) - 2 * 21 * 21
    assert len(espeak.spoken) == 2 * 21 + 21 + 61 + small_talk


def test_a_word_sounds_the_same_in_every_sum(espeak):
    """Which is what lets a model spell it with the same codes."""
    speech = AgentSpeech(espeak, SPEAKER)
    one, other = (speech.speak(f"Six plus {words}") for words in ("three is nine.", "ten is sixteen."))
    third = one.word_starts[2]
    assert other.word_starts[:3] == one.word_starts[:3]
    np.testing.assert_array_equal(one.pcm[:third], other.pcm[:third])


@given(st.integers(300, 3000), st.integers(-300, 300))
def test_a_cut_is_made_where_it_is_quiet(stop, away):
    """Within 25 ms of where the word is said to begin."""
    rng = np.random.default_rng(stop)
    pcm = (0.3 * rng.standard_normal(4000)).astype(np.float32)
    pcm[stop : stop + 240] = 0
    assert stop <= quietest(pcm, stop + 120 + away) <= stop + 240


def test_joints_are_silent():
    """So that no step is heard between two phrases; the ends are left alone."""
    phrase = Spoken(np.full(FRAME_SAMPLES, 0.5, np.float32), (0,), (Sound("a", 0),))
    joined = joined_phrases([phrase, phrase])
    assert joined.word_starts == (0, FRAME_SAMPLES)
    assert joined.pcm[FRAME_SAMPLES - 1] == joined.pcm[FRAME_SAMPLES] == 0
    assert joined.pcm[0] == joined.pcm[-1] == 0.5


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_recordings_are_changed_each_time(tmp_path_factory, seed):
    """Other lengths, the same words, their starts moved with them; a seed gives the same again."""
    folder = tmp_path_factory.getbasetemp() / "perturbed"
    if not folder.exists():
        small_corpus(folder)
    (before,) = read_shards(folder, "train-")
    by_text = {one.text: one for one in before.utterances}
    (drawn,) = perturbed([before], np.random.default_rng(seed), 8)
    (again,) = perturbed([before], np.random.default_rng(seed), 8)
    assert len(drawn.utterances) == 8
    np.testing.assert_array_equal(drawn.pcm, again.pcm)
    assert any(one.samples != by_text[one.text].samples for one in drawn.utterances)
    for one in drawn.utterances:
        source = by_text[one.text]
        assert len(one.word_starts) == len(source.word_starts)
        assert 0.7 < one.samples / source.samples < 1.4
        moved = [at * one.samples / source.samples for at in source.word_starts]
        np.testing.assert_allclose(one.word_starts, moved, atol=1)
    assert sum(one.samples for one in drawn.utterances) == len(drawn.pcm)
