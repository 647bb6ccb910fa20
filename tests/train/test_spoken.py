"""From text to recordings: the synthesizer, the agent's diction, the bank, the tokenizer."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.train.recipes import small_corpus, spoken

from pipeline.stages.text import SentencePiece
from pipeline.train.conversation.phrases import Exchange, answers
from pipeline.train.conversation.vocabulary import FILE, PADDING, train_tokenizer, word_numbers
from pipeline.train.networks.architecture import RECIPE
from pipeline.train.recordings.bank import CorpusError, read_shard, read_shards, write_shard
from pipeline.train.synthesizers import voices
from pipeline.train.synthesizers.aligned import aligned
from pipeline.train.synthesizers.voices import AGENT, Voice
from pipeline.units import FRAME_SAMPLES

WORDS = st.lists(st.sampled_from(["three", "plus", "seventeen", "i", "understand"]), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def synthesizer():
    """The real one."""
    espeak = pytest.importorskip("pipeline.train.synthesizers.espeak")
    try:
        return espeak.Synthesizer()
    except espeak.SynthesizerError as missing:
        pytest.skip(str(missing))


def test_a_shard_can_be_made_again(synthesizer):
    """From a fresh start the same texts in the same order are the same samples."""
    program = """
import hashlib
from pipeline.train.synthesizers.espeak import Synthesizer
from pipeline.train.synthesizers.voices import AGENT, Voice
synthesizer, digest = Synthesizer(), hashlib.sha256()
for text, voice in (("hello", AGENT), ("three plus four", Voice("en+f3", 150, 60)), ("hello", AGENT)):
    digest.update(synthesizer.synthesize(text, voice).pcm.tobytes())
print(digest.hexdigest())
"""
    one, other = (
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
        for _ in range(2)
    )
    assert one == other


def test_every_word_has_its_instant(synthesizer):
    """As many as there are words, in order, within the sound; also where two are spoken as one."""
    for text in ("three plus twenty one is twenty four", "i did not understand", "hello how can i help you"):
        synthesized = synthesizer.synthesize(text, AGENT)
        assert len(synthesized.word_starts) == len(text.split())
        assert list(synthesized.word_starts) == sorted(set(synthesized.word_starts))
        assert all(0 <= start < len(synthesized.pcm) for start in synthesized.word_starts)


def test_an_unknown_voice_is_refused(synthesizer):
    """Silence, or another voice, would be a corpus of something else."""
    with pytest.raises(Exception, match="no voice xx-missing"):
        synthesizer.synthesize("hello", Voice("xx-missing", 150, 50))


def test_every_voice_exists(synthesizer):
    """Of both splits."""
    for accent in voices._ACCENTS:
        for variant in (*voices._VARIANTS["train"], *voices._VARIANTS["held_out"]):
            assert (
                np.abs(synthesizer.synthesize("one", Voice(f"{accent}+{variant}", 160, 50)).pcm).max() > 0.05
            )


@given(WORDS)
@settings(max_examples=20)
def test_every_word_of_the_agent_begins_with_a_frame(words):
    """And the sound is whole frames; nothing but silence was added."""
    synthesized = spoken(" ".join(words))
    moved = aligned(synthesized)
    assert len(moved.pcm) % FRAME_SAMPLES == 0
    assert len(moved.word_starts) == len(words)
    for before, after in zip(synthesized.word_starts, moved.word_starts, strict=True):
        assert after % FRAME_SAMPLES == 0
        word = synthesized.pcm[before + 100 : before + 3800]
        found = moved.pcm[after : after + 3800 + 100]
        assert np.abs(np.correlate(found, word, "valid")).max() > 0.99 * (word**2).sum()
    assert (np.abs(moved.pcm) > 1e-3).sum() <= (np.abs(synthesized.pcm) > 1e-3).sum()


def test_words_spoken_as_one_stay_together():
    """Where there is no silence, nothing is inserted."""
    synthesized = spoken("did not")
    joined = synthesized.pcm[np.r_[0:4000, 4700:8700]]
    moved = aligned(type(synthesized)(joined, (0, 4000), synthesized.sounds))
    assert len(moved.pcm) == -(-len(joined) // FRAME_SAMPLES) * FRAME_SAMPLES
    assert moved.word_starts == (0, 2 * FRAME_SAMPLES)


def test_what_a_shard_was_given_it_gives_back(tmp_path):
    """Samples to a 16-bit step, words, and the phoneme in each 20 ms."""
    exchange = Exchange("sum", "one plus two", "one plus two is three", (1, 2))
    synthesized = spoken(exchange.question)
    write_shard(tmp_path, "train-0000", [(exchange, AGENT, synthesized), (exchange, AGENT, synthesized)])
    shard = read_shard(tmp_path, "train-0000")
    for index in range(2):
        np.testing.assert_allclose(shard.recording(index), synthesized.pcm, atol=2 / 32767)
        assert shard.utterances[index].operands == (1, 2)
        assert shard.utterances[index].word_starts == synthesized.word_starts
        start = int(shard.sound_starts[index])
        named = [
            shard.phonemes[number] for number in shard.sounds[start : start + len(synthesized.pcm) // 480]
        ]
        assert named[3] == "o"
        assert named[8] == "_"
        assert named[int(synthesized.word_starts[1] / 480) + 3] == "p"


def test_an_unfinished_shard_is_no_shard(tmp_path):
    """Its description is written last; without it, a sentence says what to run."""
    folder = small_corpus(tmp_path)
    (folder / "train-0000.json").unlink()
    with pytest.raises(CorpusError, match=r"pipeline\.train\.corpus"):
        read_shards(folder, "train-")


def test_every_answer_can_be_spelled(tmp_path):
    """By the tokenizer the server uses, of the size that the recipe says; no word is padding."""
    train_tokenizer(tmp_path)
    numbers = word_numbers(tmp_path)
    text_card = json.loads((RECIPE / "config.json").read_text())["text_card"]
    detokenizer = SentencePiece(tmp_path / FILE, text_card)
    for answer in answers("held_out"):
        assert detokenizer.decode([numbers[word] for word in answer.split()]) == answer
    assert PADDING not in numbers.values()


def test_two_tokenizers_are_one(tmp_path):
    """The same words have the same numbers, whenever and wherever it is trained."""
    for name in ("one", "other"):
        train_tokenizer(tmp_path / name)
    assert word_numbers(tmp_path / "one") == word_numbers(tmp_path / "other")


def test_the_corpus_command_says_what_it_lacks(tmp_path):
    """Without a synthesizer it ends with a sentence, not a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.train.codec", "--corpus", str(tmp_path), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "No module named 'torch'" in done.stderr:
        pytest.skip("PyTorch is not installed")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
