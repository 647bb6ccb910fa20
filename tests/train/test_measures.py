"""What an evaluation measures with."""

import numpy as np
import pytest
import trio
from recipes import spoken

from pipeline.booted import boot
from pipeline.train.evaluate import row
from pipeline.train.evaluation import trial
from pipeline.train.evaluation.measures import Sentences, log_mel_distance_db, spoken_from, stoi
from pipeline.train.evaluation.trial import Outcome, Question, noise

RNG = np.random.default_rng(4)
TEXTS = ["three plus four is seven", "three plus five is eight", "i did not understand", "hello"]


def test_a_sound_is_intelligible_as_itself():
    """And the less so, the more noise there is."""
    speech = spoken(" ".join(TEXTS)).pcm
    hiss = noise(RNG, len(speech)) * 0.1
    scores = [stoi(speech + level * hiss, speech) for level in (0, 0.3, 1, 10)]
    assert scores[0] == pytest.approx(1, abs=1e-6)
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 0.8


def test_a_sound_is_no_distance_from_itself():
    """Twice as loud is 6 dB away."""
    speech = spoken(TEXTS[0]).pcm
    assert log_mel_distance_db(speech, speech) == 0
    loud = noise(RNG, 24_000)
    assert 5.5 < log_mel_distance_db(2 * loud, loud) < 6.1


def test_the_nearest_sentence_is_the_one_that_was_said():
    """Later, quieter and in noise; and where nothing is said, it is none."""
    sentences = Sentences({text: spoken(text).pcm for text in TEXTS})
    for text in TEXTS:
        pcm = np.pad(0.7 * spoken(text).pcm, (13_000, 30_000))
        pcm = (pcm + noise(RNG, len(pcm)) * 0.002).astype(np.float32)
        assert sentences.nearest(pcm) == text
    assert sentences.nearest(np.zeros(50_000, np.float32)) is None


def test_speech_begins_where_it_is_loud():
    """To 20 ms; nowhere in silence."""
    assert spoken_from(np.pad(spoken("hello").pcm, (12_345, 0))) // 480 == 12_345 // 480
    assert spoken_from(np.zeros(9600, np.float32)) is None


def test_noise_has_unit_loudness_and_is_none_of_training():
    """So that a ratio to a voice is what it says."""
    sound = noise(np.random.default_rng(1), 48_000)
    assert np.sqrt((sound**2).mean()) == pytest.approx(1, abs=1e-3)


def test_a_row_counts_both_ways_of_being_right():
    """By text exactly, by sound as the nearest; failures are shown with what was said instead."""
    sentences = Sentences({text: spoken(text).pcm for text in TEXTS})
    outcomes = [
        Outcome(TEXTS[0], TEXTS[0], spoken(TEXTS[0]).pcm, 400.0),
        Outcome(TEXTS[0], TEXTS[1], spoken(TEXTS[0]).pcm, 600.0),
        Outcome(TEXTS[2], "", np.zeros(1000, np.float32), None),
        Outcome(TEXTS[3], TEXTS[3] + " / " + TEXTS[3], spoken(TEXTS[3]).pcm, 500.0),
    ]
    found = row(outcomes, sentences)
    assert (found["by_text"], found["by_sound"]) == (0.25, 0.75)
    assert found["latency_ms"] == 500
    assert any("(nothing)" in failure for failure in found["failures"])


def test_a_server_is_asked_as_a_client_asks(checkpoint, monkeypatch):
    """Every question has the sound of its own time, and nothing of the next one's."""
    monkeypatch.setattr(trial, "_ANSWER_S", 0.8)
    questions = [Question(spoken("hello").pcm, "hello"), Question(spoken("one plus two").pcm, "three")]
    with boot(checkpoint) as server:
        outcomes, report = trio.run(trial.ask, server.socket_url, questions, 10.0, 1)
    assert [outcome.wanted for outcome in outcomes] == ["hello", "three"]
    left_out = report.dropped.get("agent_audio", 0)  # where the machine is short of time, and told
    assert report.frames_out + left_out == report.frames_in - 1
    for outcome in outcomes:
        assert 8 * 1920 <= len(outcome.sound) <= 12 * 1920
