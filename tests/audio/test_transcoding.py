"""Audio of other clients to frames and back: exact where nothing is lost, bounded whatever comes."""

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio import g711
from pipeline.audio.transcoding import PIECES_SAMPLES_MAX, decoder_of, encoder_of
from pipeline.units import AudioFormat

PCM = AudioFormat("pcm16", 24_000)
LAWS = {"mulaw": "ULAW", "alaw": "ALAW"}


@pytest.mark.parametrize("law", LAWS)
def test_the_levels_are_those_of_libsndfile(law):
    """Every one of the 256 codes."""
    codes = bytes(range(256))
    expected, _ = soundfile.read(
        io.BytesIO(codes), samplerate=8000, channels=1, format="RAW", subtype=LAWS[law], dtype="float32"
    )
    np.testing.assert_array_equal(g711.decode(codes, law), expected)


@pytest.mark.parametrize("law", LAWS)
def test_a_sample_gets_the_nearest_level(law):
    """Every 16-bit sample is as near to its level as to any other."""
    samples = np.arange(-32_768, 32_768, dtype=np.float32) / 32_768
    levels = np.unique(g711.decode(bytes(range(256)), law))
    nearest = np.abs(samples[:, None] - levels[None]).min(axis=1)
    chosen = g711.decode(g711.encode(samples, law), law)
    np.testing.assert_allclose(np.abs(samples - chosen), nearest, rtol=0, atol=1e-7)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9000), max_size=8), st.integers(0, 2**32 - 1))
def test_pcm16_is_exact_however_it_is_cut(sizes, seed):
    """Samples cut in two included: all frames that are whole, bit for bit, and none twice."""
    data = np.random.default_rng(seed).integers(-32_768, 32_768, 30_000).astype("<i2").tobytes()[: sum(sizes)]
    decoder, frames, at = decoder_of(PCM), [], 0
    for size in sizes:
        decoded = decoder.decode([data[at : at + size]])
        assert decoded.refusal is None
        frames.append(decoded.frames)
        at += size
    joined = np.concatenate(frames).reshape(-1) if frames else np.empty(0)
    whole = len(data) // 2 // 1920 * 1920
    np.testing.assert_array_equal(joined, np.frombuffer(data[: 2 * whole], "<i2") / 32_768)


def test_pcm16_is_rounded_to_the_nearest_step():
    """Encoded and decoded, a sample is within half a step; beyond full scale it is clipped."""
    frame = np.linspace(-1.1, 1.1, 1920, dtype=np.float32)
    back = np.frombuffer(encoder_of(PCM).encode(frame), "<i2") / 32_768
    np.testing.assert_allclose(back, frame.clip(-1, 32_767 / 32_768), rtol=0, atol=0.5 / 32_768 + 1e-7)


@pytest.mark.parametrize(
    ("audio_format", "sample_bytes"),
    [
        (AudioFormat("pcm16", 16_000), 2),
        (AudioFormat("mulaw", 8_000), 1),
        (AudioFormat("alaw", 8_000), 1),
    ],
)
def test_other_rates_keep_their_pace(audio_format, sample_bytes):
    """Two seconds of a tone, out and back in, lose only what the filters hold back."""
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 24_000)).astype(np.float32)
    encoder, decoder = encoder_of(audio_format), decoder_of(audio_format)
    pieces = [encoder.encode(frame) for frame in tone.reshape(-1, 1920)]
    assert 0 <= 2 - sum(map(len, pieces)) / sample_bytes / audio_format.rate_hz < 0.05
    heard = np.concatenate([decoder.decode([piece]).frames for piece in pieces]).reshape(-1)
    assert 48_000 - len(heard) < 3 * 1920
    settled = heard[4800:]
    spectrum = np.abs(np.fft.rfft(settled * np.hanning(len(settled))))
    assert abs(np.fft.rfftfreq(len(settled), 1 / 24_000)[spectrum.argmax()] - 440) < 2
    assert abs(np.abs(settled).max() - 0.5) < 0.05


@pytest.mark.parametrize("audio_format", [PCM, AudioFormat("pcm16", 16_000), AudioFormat("mulaw", 8_000)])
def test_one_message_is_bounded(audio_format):
    """What is too long is cut and refused, and the next message is decoded."""
    decoder = decoder_of(audio_format)
    decoded = decoder.decode([bytes(1 << 20)])
    assert decoded.refusal is not None
    assert len(decoded.frames) * 1920 <= PIECES_SAMPLES_MAX
    assert decoder.decode([bytes(400)]).refusal is None
