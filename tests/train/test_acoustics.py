"""Room acoustics, channels and background sound."""

import numpy as np
import pytest
from opuslib_next import APPLICATION_AUDIO

torch = pytest.importorskip("torch")

from pipeline.train.acoustics.channels import some_through_opus, through_opus  # noqa: E402 - after the skip
from pipeline.train.acoustics.music import music  # noqa: E402
from pipeline.train.acoustics.rooms import across_a_room, in_a_room, loudness, noisy, telephone  # noqa: E402
from pipeline.units import SAMPLE_RATE_HZ  # noqa: E402

CPU = torch.device("cpu")


def tones(*frequencies_hz):
    time_s = torch.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    return torch.stack([torch.sin(2 * torch.pi * f * time_s) * 0.3 for f in frequencies_hz])


def test_a_telephone_passes_what_a_telephone_passes():
    """1 kHz as it is; 100 Hz and 6 kHz at a tenth of their amplitude or less."""
    sound = tones(100, 1000, 6000)
    kept = telephone(sound).square().mean(1).sqrt() / sound.square().mean(1).sqrt()
    assert kept[1] == pytest.approx(1, abs=0.05)
    assert kept[0] < 0.1
    assert kept[2] < 0.15


def test_a_telephone_makes_steps_of_amplitudes():
    """At most 255 of them, as a byte has."""
    assert len(torch.unique(telephone(tones(1000)))) <= 255


def test_voices_are_at_all_levels():
    """From a whisper far away to one that clips; never beyond full scale."""
    torch.manual_seed(1)
    recorded = in_a_room(tones(*range(300, 3300, 50)))
    decibels = 20 * torch.log10(loudness(recorded))
    assert recorded.abs().max() <= 1
    assert decibels.min() < -34
    assert decibels.max() > -14


def test_music_has_unit_loudness_and_is_never_the_same():
    """And it goes on to the end."""
    torch.manual_seed(2)
    pieces = music(3, 4 * SAMPLE_RATE_HZ, CPU)
    torch.testing.assert_close(pieces.square().mean(1).sqrt(), torch.ones(3))
    assert (pieces[:, -SAMPLE_RATE_HZ:].square().mean(1) > 0.05).all()
    assert not torch.allclose(pieces[0], pieces[1])


def test_what_is_behind_a_voice_is_quieter_than_it():
    """By 3 dB at least, and by 35 at most, where there is anything."""
    torch.manual_seed(3)
    voice = tones(*[500] * 64)
    behind = noisy(voice, tones(*[700] * 64)) - voice
    loud = behind.square().mean(1).sqrt()
    apart = 20 * torch.log10(loudness(voice)[:, 0] / loud.clamp(min=1e-9))
    some = loud > 1e-6
    assert 0.5 < some.float().mean() < 0.95
    assert apart[some].min() > 2
    assert apart[some].max() < 36


def test_without_speech_the_background_may_be_loud():
    """Music or talk as loud as a voice, which is no question all the same."""
    torch.manual_seed(4)
    behind = noisy(torch.zeros(64, SAMPLE_RATE_HZ), tones(*[700] * 64))
    decibels = 20 * torch.log10(behind.square().mean(1).sqrt().clamp(min=1e-6))
    assert decibels.max() > -20
    assert decibels.min() < -60


def test_people_across_a_room_are_mostly_echo():
    """After a click the room sounds on for longer than the click; silence stays silent; nothing clips."""
    torch.manual_seed(5)
    sound = torch.zeros(2, 24_000)
    sound[0, 4000:4048] = 0.5
    far = across_a_room(sound)
    assert not far[1].any()
    assert not far[0, :3000].abs().gt(1e-3).any()
    assert far[0, 4048:].square().sum() > far[0, 4000:4048].square().sum()
    assert far.abs().max() <= 1


def test_opus_keeps_the_words_and_not_the_samples():
    """As long as before and about as loud; the fewer bits, the farther from what was said."""
    pcm = tones(300, 800)[:, : SAMPLE_RATE_HZ - 7].sum(0).numpy() * 0.3
    heard = {bits: through_opus(pcm, bits, APPLICATION_AUDIO) for bits in (8_000, 64_000)}
    for coded in heard.values():
        assert len(coded) == len(pcm)
        assert 0.7 < coded.std() / pcm.std() < 1.3
    spectrum = np.abs(np.fft.rfft(pcm))
    apart = {bits: np.abs(np.abs(np.fft.rfft(coded)) - spectrum).sum() for bits, coded in heard.items()}
    assert 0 < apart[64_000] < apart[8_000]


def test_a_tenth_goes_through_opus():
    """Row by row; the others stay as they are."""
    sound = tones(*[440] * 60)
    coded = some_through_opus(sound, np.random.default_rng(5))
    changed = (coded != sound).any(1).sum().item()
    assert coded.shape == sound.shape
    assert 1 < changed < 14
