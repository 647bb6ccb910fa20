"""The measures and the report of an evaluation."""

import json

import numpy as np
import pytest
import trio
from support.train.recipes import small_corpus, spoken

from pipeline.config import read_config
from pipeline.loadtest.server_process import start_server
from pipeline.stages.model_stages import open_stages
from pipeline.train import evaluate
from pipeline.train.conversation.phrases import draw
from pipeline.train.evaluate import Transcripts, by_family, row, stopped, table
from pipeline.train.evaluation import trial
from pipeline.train.evaluation.conditions import CONDITIONS, family, is_answer, questions, with_pause
from pipeline.train.evaluation.interference import music, noise, talk
from pipeline.train.evaluation.judge import normalized, word_errors
from pipeline.train.evaluation.measures import spoken_from
from pipeline.train.evaluation.trial import Outcome, Question, ask_offline, script
from pipeline.train.recordings.bank import CorpusError, read_shard, write_shard
from pipeline.train.synthesizers.speaker import Speaker
from pipeline.values import GREEDY


def test_speech_begins_where_it_is_loud():
    """To 20 ms; nowhere in silence."""
    assert spoken_from(np.pad(spoken("hello").pcm, (12_345, 0))) // 480 == 12_345 // 480
    assert spoken_from(np.zeros(9600, np.float32)) is None


@pytest.mark.parametrize("make", [noise, music, lambda rng, n: talk(rng, n, [spoken("hello there").pcm])])
def test_interference_has_unit_loudness(make):
    """So that a ratio to a voice is what it says; and it goes on to the end."""
    sound = make(np.random.default_rng(1), 96_000)
    assert sound.shape == (96_000,)
    assert np.sqrt((sound**2).mean()) == pytest.approx(1, abs=1e-3)
    assert spoken_from(sound[-40_000:]) is not None


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("17 + 1 = 18.", "seventeen plus one is eighteen"),
        (" What is 17-13?", "what is seventeen minus thirteen"),
        ("Nine minus 12 is -3.", "nine minus twelve is minus three"),
        ("Okay, stop!", "okay stop"),
        ("twenty-one", "twenty one"),
        ("It’s 100", "it's 100"),
    ],
)
def test_numbers_are_compared_as_words(written, words):
    """A recognizer writes figures and signs as it pleases."""
    assert normalized(written) == words
    assert normalized(normalized(written)) == words


def test_word_errors_are_counted_once_each():
    """A substitution, an insertion and a deletion are one error each, of the words of the reference."""
    assert word_errors("three plus four is seven", "three plus four is seven") == (0, 5)
    assert word_errors("three plus four is seven", "tree plus four seven oh") == (3, 5)
    assert word_errors("hello", "") == (1, 1)


def test_an_answer_is_the_whole_sentence_and_nothing_else():
    """Capitals and stops aside: a checkpoint from before they were written is judged by the same rule."""
    assert is_answer("three plus four is seven", "Three plus four is seven.")
    assert not is_answer("Three plus four is seven. / Goodbye.", "Three plus four is seven.")
    assert not is_answer("", "Goodbye.")


def outcome(wanted, text, latency_ms, family="kokoro", silent_ms=None):
    sound = spoken(text).pcm if text else np.zeros(1000, np.float32)
    asked = Question(np.zeros(0, np.float32), wanted, "what was asked", family)
    return Outcome(asked, text, sound, latency_ms, asked.pcm, silent_ms)


def test_a_row_counts_text_and_judge_apart():
    """Right by text, right by the transcript, and the errors between the two; failures are shown."""
    outcomes = [
        outcome("Three plus four is seven.", "Three plus four is seven.", 400.0),
        outcome("Three plus four is seven.", "Three plus five is eight.", 600.0),
        outcome("Goodbye.", "", None),
    ]
    transcribed = [
        Transcripts("what was asked", "three plus four is seven"),
        Transcripts("what was asked", "three plus four is seven"),
        Transcripts("something else", ""),
    ]
    found = row(outcomes, transcribed)
    assert (found.asked, found.by_text, found.by_judge) == (3, 1 / 3, 2 / 3)
    assert found.control == 2 / 3
    assert found.word_error_rate == 2 / 10
    assert found.latency_ms == 500
    assert "“Goodbye.”: “(nothing)”" in found.failures
    alone = row(outcomes, None)
    assert (alone.control, alone.by_judge, alone.word_error_rate) == (None, None, None)


def test_an_agent_that_goes_on_has_not_stopped():
    """Nor has one that never began."""
    assert stopped(outcome("x", "Three plus", 400.0, silent_ms=600.0))
    assert not stopped(outcome("x", "Three plus four is seven.", 400.0, silent_ms=1600.0))
    assert not stopped(outcome("x", "", None))


def test_a_report_has_a_line_for_every_condition_and_family():
    """Figures that were not measured are dashes, not zeros."""
    right = outcome("Goodbye.", "Goodbye.", 450.0)
    wrong = outcome("Goodbye.", "Hello.", 450.0, family="piper")
    answers, transcribed = {"sums": [right, wrong]}, {"sums": None}
    report = {
        "conditions": {"sums": row(answers["sums"], None)},
        "families": by_family(answers, transcribed),
        "false_starts": {"music": ["Goodbye."]},
        "interference_s": 300.0,
        "p99_ms": {},
    }
    lines = table(report).splitlines()
    assert "| sums | 2 | - | 50.0% | - | - | 450 ms |" in lines
    assert "| piper | 1 | - | 0.0% | - | - | 450 ms |" in lines
    assert any(line.startswith("music: 1 false starts, 2.0 in 10 minutes") for line in lines)


def test_a_question_has_its_pause_where_one_may_pause(tmp_path):
    """A second of silence before the last operand; the answer that is wanted stays."""
    corpus = small_corpus(tmp_path)
    source = read_shard(corpus, "train-0000").utterances
    exchanges = [draw(np.random.default_rng(i), kind="sum", manner="fluent") for i in range(6)]
    joe = Speaker("piper", (("joe", 1.0),))
    write_shard(corpus, "eval-sums", [(one, joe, spoken(one.question)) for one in exchanges])
    named = {condition.name: condition for condition in CONDITIONS}
    plain, paused = named["sums"], named["a pause of 1 s inside"]
    for one, other in zip(questions(corpus, plain, 6), questions(corpus, paused, 6), strict=True):
        assert len(other.pcm) - len(one.pcm) == 24_000
        assert one.answer == other.answer
        assert one.family == "piper"
    assert {family(one) for one in source} == {"espeak"}
    utterance = read_shard(corpus, "eval-sums").utterances[0]
    pcm = np.ones(utterance.samples, np.float32)
    silent = np.flatnonzero(with_pause(pcm, utterance, 1.0) == 0)
    assert silent[0] in utterance.word_starts
    requests = [draw(np.random.default_rng(i), kind="repeat") for i in range(3)]
    write_shard(corpus, "eval-manners", [(one, joe, spoken(one.question)) for one in requests])
    again = questions(corpus, named['"say that again"'], 4)
    assert [question.counted for question in again] == [False, True] * 4
    assert all(one.answer == other.answer for one, other in zip(again[::2], again[1::2], strict=True))
    assert {question.text for question in again[1::2]} == {one.question for one in requests}
    with pytest.raises(CorpusError, match=r"eval-pairs: .*\.record makes it"):
        questions(corpus, named["unseen pairs"], 6)


def test_a_server_is_asked_as_a_client_asks(checkpoint, monkeypatch):
    """Every question has the sound of its own time, and nothing of the next one's."""
    monkeypatch.setattr(trial, "_ANSWER_S", 0.8)
    questions = [Question(spoken("hello").pcm, "hello"), Question(spoken("one plus two").pcm, "three")]
    with start_server(checkpoint) as server:
        outcomes, report = trio.run(trial.ask, server.socket_url, questions, 10.0, 1)
    assert [outcome.question.answer for outcome in outcomes] == ["hello", "three"]
    dropped = report.dropped.get("agent_audio", 0)  # where the machine is short of time
    assert report.frames_out + dropped == report.frames_in - 1
    for outcome in outcomes:
        assert 5 * 1920 <= len(outcome.sound) <= 15 * 1920  # a busy machine is late


def test_a_model_answers_the_same_without_a_server(checkpoint, monkeypatch):
    """The same frames, drawn with the same seed; only the times are those of an idle machine."""
    monkeypatch.setattr(trial, "_ANSWER_S", 0.8)
    questions = [Question(spoken("hello").pcm, "hello"), Question(spoken("one plus two").pcm, "three")]
    stages = open_stages(read_config(checkpoint, ["lanes.max=1"]))
    first, again = (ask_offline(stages, GREEDY, script(questions, 10.0, 1)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one.text == other.text
        np.testing.assert_array_equal(one.sound, other.sound)
        assert 8 * 1920 <= len(one.sound) <= 12 * 1920
        assert one.latency_ms is None or one.latency_ms >= 80


def test_one_command_asks_counts_and_prints(checkpoint, tmp_path, monkeypatch, capsys):
    """Through a server of its own: rows by condition and synthesizer, false starts, and all of it as JSON."""
    monkeypatch.setattr(trial, "_ANSWER_S", 0.8)
    corpus = small_corpus(tmp_path / "corpus")
    joe = Speaker("piper", (("joe", 1.0),))
    for name, kind in (("eval-sums", "sum"), ("eval-refusals", "unknown")):
        asked = [draw(np.random.default_rng(i), kind=kind, manner="fluent") for i in range(3)]
        write_shard(corpus, name, [(one, joe, spoken(one.question)) for one in asked])
    few = ["--count", "2", "--only", "sums", "--interference-s", "1", "--no-judge"]
    written = tmp_path / "figures.json"
    where = ["--corpus", str(corpus), "--config", str(checkpoint), "--json", str(written)]
    assert evaluate.main([*where, *few]) == 0
    printed = capsys.readouterr().out
    report = json.loads(written.read_text())
    assert list(report["conditions"]) == ["sums"]
    assert report["conditions"]["sums"]["asked"] == report["families"]["piper"]["asked"] == 2
    assert set(report["false_starts"]) == {"silence", "noise", "music", "other people's talk"}
    assert "| sums | 2 | - |" in printed
    assert "| piper | 2 | - |" in printed
    assert "music: " in printed
    assert set(report["p99_ms"]) == {"encode", "step", "decode"}
