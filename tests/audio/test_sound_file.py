import contextlib
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recordings import write_speech

from pipeline.audio.resampling import StreamResampler, to_speech_rate
from pipeline.audio.sound_file import SoundWriter, read_sound, read_speech
from pipeline.errors import AudioFileError


def tone(rate_hz: int, seconds: float = 0.5, pitch_hz: float = 440.0) -> np.ndarray:
    time_s = np.arange(round(rate_hz * seconds)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * pitch_hz * time_s)).astype(np.float32)


def middle(pcm: np.ndarray) -> np.ndarray:
    """Without the filter's edges, where a sudden start has no clean spectrum."""
    return pcm[2000:-2000]


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 44100, 48000])
def test_any_rate_becomes_24_khz(tmp_path, rate_hz):
    """A tone stays the same tone, at the same level and in the same place."""
    soundfile.write(tmp_path / "a.wav", tone(rate_hz), rate_hz, subtype="FLOAT")
    pcm = read_speech(tmp_path / "a.wav")
    assert pcm.dtype == np.float32
    assert len(pcm) == 12_000
    assert np.abs(middle(pcm) - middle(tone(24_000))).max() < 1e-3


def test_stereo_becomes_the_mean_of_its_channels(tmp_path):
    """Channels are averaged, not summed and not chosen."""
    left, right = tone(24_000), tone(24_000, pitch_hz=300)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 24_000, subtype="FLOAT")
    assert np.allclose(read_speech(tmp_path / "a.wav"), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("kind", ["FLAC", "OGG"])
def test_other_sound_files_are_read(tmp_path, kind):
    """Every format that libsndfile supports can be read, not WAV alone."""
    soundfile.write(tmp_path / "a", tone(24_000), 24_000, format=kind)
    assert np.abs(read_speech(tmp_path / "a") - tone(24_000)).max() < 0.05


def test_a_16_bit_file_read_and_written_is_the_same_file(tmp_path):
    """Every 16-bit value survives reading and writing exactly."""
    steps = np.arange(-32768, 32768, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", steps, 24_000, subtype="PCM_16")
    write_speech(tmp_path / "b.wav", read_speech(tmp_path / "a.wav"))
    assert np.array_equal(soundfile.read(tmp_path / "b.wav", dtype="int16")[0], steps)
    assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "a.wav").read_bytes()


def test_what_is_written_is_16_bit_mono_24_khz_in_order(tmp_path):
    """Pieces are appended in order, to within half a step, and clipped at ±1 rather than wrapped."""
    pieces = [tone(24_000)[:100], np.float32([2.0, -2.0, 1.0, -1.0]), tone(24_000)[100:250]]
    with SoundWriter(tmp_path / "a.wav") as file:
        for piece in pieces:
            file.write(piece)
        file.commit()
    info = soundfile.info(tmp_path / "a.wav")
    assert (info.samplerate, info.channels, info.subtype, info.format) == (24_000, 1, "PCM_16", "WAV")
    written = np.concatenate(pieces).clip(-1, 32767 / 32768)
    assert np.abs(read_speech(tmp_path / "a.wav") - written).max() <= 0.5 / 32768


def nothing(path):
    pass


def folder(path):
    path.mkdir()


def garbage(path):
    path.write_bytes(bytes(range(256)) * 16)


def zero_bytes(path):
    path.touch()


def header_alone(path):
    soundfile.write(path, np.empty(0, np.float32), 24_000, format="WAV")


def not_a_number(path):
    soundfile.write(path, np.float32([0, np.nan]), 24_000, format="WAV", subtype="FLOAT")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (nothing, "no such file"),
        (folder, "is a folder"),
        (garbage, "cannot be read as a sound file"),
        (zero_bytes, "cannot be read as a sound file"),
        (header_alone, "holds no samples"),
        (not_a_number, "holds samples that are NaN or infinite"),
    ],
)
def test_an_unusable_file_is_one_sentence(tmp_path, make, problem):
    """Each unusable file is an `AudioFileError` that names the path and what is wrong."""
    make(tmp_path / "a.wav")
    with pytest.raises(AudioFileError) as error:
        read_speech(tmp_path / "a.wav")
    assert error.value.path == str(tmp_path / "a.wav")
    assert error.value.problem.startswith(problem)
    assert error.value.exit_code == 2


def test_a_path_that_cannot_be_written_is_one_sentence(tmp_path):
    """A missing folder, and a folder where the file should be, are reported when the file is opened."""
    (tmp_path / "folder").mkdir()
    for path, problem in [("none/a.wav", "does not exist"), ("folder", "is a folder")]:
        with pytest.raises(AudioFileError, match=problem):
            SoundWriter(tmp_path / path)


def test_a_full_disk_is_one_sentence():
    """A write that fails is an `AudioFileError`, not a shorter file."""
    with pytest.raises(AudioFileError, match="/dev/full: "):
        write_speech("/dev/full", tone(24_000, seconds=5))


@settings(max_examples=30)
@given(st.sampled_from([(48_000, 24_000), (44_100, 24_000), (24_000, 44_100), (24_000, 24_000)]), st.data())
def test_a_live_stream_resamples_the_same_in_any_pieces(rates, data):
    """Pieces of any length give, concatenated, what one piece gives: as long, and in the same place."""
    from_hz, to_hz = rates
    source = tone(from_hz)
    whole = StreamResampler(from_hz, to_hz)
    expected = np.concatenate([whole.push(source), whole.flush()])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(source)), max_size=8)))
    stream = StreamResampler(from_hz, to_hz)
    pieces = [stream.push(piece) for piece in np.split(source, cuts)]
    joined = np.concatenate([*pieces, stream.flush()])
    assert abs(len(joined) - to_hz // 2) <= 1
    assert len(joined) == len(expected)
    assert np.abs(joined - expected).max() < 1e-6
    assert np.abs(middle(joined)[:8000] - middle(tone(to_hz))[:8000]).max() < 1e-3


def test_24_khz_is_not_resampled():
    """Speech at the right rate is passed on bit for bit."""
    pcm = tone(24_000)
    assert to_speech_rate(pcm, 24_000) is pcm


def speech_file(path, samples, rate_hz=24_000, subtype="FLOAT"):
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return path


VOICE = tone(24_000)


@pytest.mark.parametrize(
    ("samples", "rate_hz", "notice"),
    [
        (VOICE * 32768, 24_000, "reaches 1.638e+04 where 1 is full scale"),
        (VOICE * 2.5, 24_000, "is louder than full scale"),
        (np.stack([VOICE, -VOICE], 1), 24_000, "nothing is left"),
        (np.stack([VOICE, -0.9 * VOICE], 1), 24_000, "cancel each other out"),
        (VOICE, 12_345, "unusual sample rate, 12345 Hz"),
        (VOICE * 10 ** (-36 / 20), 24_000, "is very quiet: its loudest sample is at -42 dB"),
        (VOICE * 0, 24_000, "holds only zeros"),
    ],
)
def test_sound_that_would_be_lost_silently_is_told(tmp_path, samples, rate_hz, notice):
    """The file can be read, and the user learns what is wrong with it."""
    speech = read_sound(speech_file(tmp_path / "a.wav", samples, rate_hz))
    assert len(speech.notices) == 1
    assert notice in speech.notices[0]
    assert speech.notices[0].startswith(str(tmp_path / "a.wav"))


@pytest.mark.parametrize(
    ("samples", "rate_hz"),
    [
        (VOICE, 24_000),
        (VOICE, 44_100),
        (VOICE * 0.1, 8_000),
        (np.stack([VOICE, VOICE * 0], 1), 48_000),
        (np.random.default_rng(1).normal(0, 0.1, (24_000, 2)).clip(-1, 1), 192_000),
    ],
)
def test_an_ordinary_recording_has_no_notice(tmp_path, samples, rate_hz):
    """One channel only, unrelated channels, and a distant speaker are ordinary."""
    assert read_sound(speech_file(tmp_path / "a.wav", samples, rate_hz)).notices == ()


@pytest.mark.parametrize("rate_hz", [1, 3_999, 768_001])
def test_a_sample_rate_that_cannot_be_true_is_refused(tmp_path, rate_hz):
    """Resampling it would take all memory, or give nothing."""
    with pytest.raises(AudioFileError, match=f"has a sample rate of {rate_hz} Hz"):
        read_speech(speech_file(tmp_path / "a.wav", VOICE, rate_hz))


@pytest.mark.parametrize(
    ("extension", "container", "encoding"),
    [
        (".wav", "WAV", "PCM_16"),
        (".WAV", "WAV", "PCM_16"),
        ("", "WAV", "PCM_16"),
        (".flac", "FLAC", "PCM_16"),
        (".ogg", "OGG", "OPUS"),
        (".opus", "OGG", "OPUS"),
        (".mp3", "MP3", "MPEG_LAYER_III"),
    ],
)
def test_a_file_has_the_format_of_its_name(tmp_path, extension, container, encoding):
    """It is what players expect, and as loud as what was written."""
    path = tmp_path / f"a{extension}"
    write_speech(path, VOICE)
    info = soundfile.info(path)
    assert (info.format, info.subtype, info.samplerate, info.channels) == (container, encoding, 24_000, 1)
    read = read_speech(path)
    assert abs(len(read) - len(VOICE)) <= 4000
    assert np.abs(read).max() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("name", ["a.aac", "a.txt", "a.m4a"])
def test_a_name_of_a_format_that_cannot_be_written_is_refused(tmp_path, name):
    """The formats that can be are named, and there is no file."""
    with pytest.raises(AudioFileError, match=r"use \.wav, \.flac"):
        SoundWriter(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_is_not_committed_leaves_the_earlier_file(tmp_path):
    """Nothing is left beside it either."""
    write_speech(tmp_path / "a.wav", VOICE)
    before = (tmp_path / "a.wav").read_bytes()
    with SoundWriter(tmp_path / "a.wav") as file:
        file.write(VOICE)
    assert (tmp_path / "a.wav").read_bytes() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "a.wav"]


def test_a_question_is_not_written_over(tmp_path):
    """By whatever name."""
    write_speech(tmp_path / "a.wav", VOICE)
    (tmp_path / "b.wav").symlink_to(tmp_path / "a.wav")
    with pytest.raises(AudioFileError, match="is also the input"):
        SoundWriter(tmp_path / "b.wav", inputs=[tmp_path / "a.wav"])


def test_what_is_written_to_a_pipe_can_be_read_from_one(tmp_path):
    """A WAV file of unknown length, as sox and ffmpeg write it."""
    reading, writing = os.pipe()
    with SoundWriter(f"/dev/fd/{writing}") as file:
        file.write(VOICE)
        file.commit()
    os.close(writing)
    read = read_speech(f"/dev/fd/{reading}")
    os.close(reading)
    assert np.abs(read - VOICE).max() <= 1 / 32768


def test_only_wav_is_written_to_a_pipe(tmp_path):
    """Another format needs to go back in the file; whoever reads gets its end, and nothing before."""
    pipe = tmp_path / "a.flac"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(AudioFileError, match="only WAV"):
        SoundWriter(pipe)
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_a_pipe_without_an_end_is_a_sentence(monkeypatch):
    """Even where all of it so far is sound."""
    monkeypatch.setattr("pipeline.audio.sound_file.PIPED_BYTES_MAX", 1 << 20)
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as endless:
        with pytest.raises(AudioFileError, match="does not end within 1 MiB"):
            read_speech(f"/dev/fd/{endless.stdout.fileno()}")
        endless.kill()


def test_a_reader_of_a_pipe_who_leaves_is_no_error_of_a_file():
    """The command ends as every other whose output nobody wants."""
    reading, writing = os.pipe()
    file = SoundWriter(f"/dev/fd/{writing}")
    os.close(writing)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        file.write(VOICE)
    file.close()


def test_a_file_may_have_any_name(tmp_path):
    """Also one that is not text."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.wav"))
    write_speech(path, VOICE)
    assert len(read_speech(path)) == len(VOICE)


@settings(max_examples=200)
@given(st.binary(max_size=400), st.sampled_from([b"", b"RIFF", b"fLaC", b"OggS", b"ID3", b"FORM", b"caff"]))
def test_a_file_of_any_content_is_a_sentence(tmp_path_factory, content, magic):
    """Whatever it claims to be."""
    path = tmp_path_factory.mktemp("any") / "a"
    path.write_bytes(magic + content)
    with contextlib.suppress(AudioFileError):
        read_sound(path)


@settings(max_examples=100)
@given(st.data())
def test_a_damaged_sound_file_is_a_sentence(tmp_path_factory, data):
    """Any byte of its beginning may be wrong."""
    path = tmp_path_factory.mktemp("damaged") / data.draw(
        st.sampled_from(["a.wav", "a.flac", "a.ogg", "a.mp3"])
    )
    write_speech(path, VOICE[:4000])
    content = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, min(120, len(content) - 1)), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(AudioFileError):
        read_sound(path)


def test_the_length_in_a_header_is_not_believed(tmp_path: Path) -> None:
    """Flipped bits in it must not ask for terabytes of memory: what there is counts."""
    path = tmp_path / "a.flac"
    write_speech(path, VOICE)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # the number of samples: 36 bits (RFC 9639 §8.2)
    content[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(AudioFileError, match="cannot be read as a sound file"):
        read_speech(path)


def test_what_is_cut_off_of_an_answer_is_told(tmp_path: Path) -> None:
    """A few samples are not worth a word."""
    with SoundWriter(tmp_path / "loud.wav") as out:
        out.write(np.full(100, 1.5, np.float32))
        out.write(np.zeros(100, np.float32))
        assert "loud.wav: the sound was louder than full scale, and 50.0% of it is cut off" in str(out.notice)
    with SoundWriter(tmp_path / "quiet.wav") as out:
        out.write(np.full(10_000, 0.9, np.float32))
        out.write(np.full(1, 1.1, np.float32))
        assert out.notice is None
