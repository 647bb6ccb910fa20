"""What a client's coding of sound does to it, by the library that the server decodes with."""

from typing import Final

import numpy as np
import opuslib_next
import torch
from torch import Tensor

from pipeline.audio.opus import OpusDecoder
from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

_OPUS_SHARE: Final = 0.1
_BITS_PER_S: Final = (10_000, 64_000)
_PACKET_SAMPLES: Final = SAMPLE_RATE_HZ // 50
_APPLICATIONS: Final = (opuslib_next.APPLICATION_VOIP, opuslib_next.APPLICATION_AUDIO)


def through_opus(pcm: Pcm, bits_per_s: int, application: int) -> Pcm:
    """`[S]` encoded and decoded in packets of 20 ms, later by the encoder's lookahead, and as long."""
    encoder = opuslib_next.Encoder(SAMPLE_RATE_HZ, 1, application)
    encoder.bitrate = bits_per_s
    decoder = OpusDecoder()
    padded = np.pad(pcm, (0, -len(pcm) % _PACKET_SAMPLES)).astype("<f4")
    packets = (
        encoder.encode_float(packet.tobytes(), _PACKET_SAMPLES)
        for packet in padded.reshape(-1, _PACKET_SAMPLES)
    )
    return np.concatenate([decoder.decode(packet) for packet in packets])[: len(pcm)]


def some_through_opus(sound: Tensor, rng: np.random.Generator) -> Tensor:
    """`[B, S]`, a tenth of the rows through Opus at bit rates from bad to good."""
    rows = []
    for row in sound:
        if rng.random() < _OPUS_SHARE:
            bits_per_s, application = int(rng.integers(*_BITS_PER_S)), int(rng.choice(_APPLICATIONS))
            coded = through_opus(row.cpu().numpy(), bits_per_s, application)
            rows.append(torch.from_numpy(coded).to(sound))
        else:
            rows.append(row)
    return torch.stack(rows)
