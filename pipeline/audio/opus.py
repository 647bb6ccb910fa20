"""Opus packets to samples and back (RFC 6716), at 24 kHz mono, by libopus.

Neighbours: `pipeline.protocol.moshi.ogg` takes the packets out of their container. Both ends keep
state, so packets have to come in order.
"""

from typing import Final

import numpy as np
import opuslib_next
from opuslib_next import Decoder, Encoder, OpusError

from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

PACKET_SAMPLES_MAX: Final = SAMPLE_RATE_HZ * 120 // 1000  # RFC 6716 §2.1.4
_SAMPLE: Final = np.dtype("<f4")


class OpusPacketError(Exception):
    """A packet that libopus rejects; later ones may be valid."""


class OpusDecoder:
    """Decodes one stream of packets."""

    def __init__(self) -> None:
        self._decoder = Decoder(SAMPLE_RATE_HZ, 1)

    def decode(self, packet: bytes) -> Pcm:
        """One packet as samples `[S]`, S from 60 to 2880.

        Raises:
            OpusPacketError: it is not a valid packet.
        """
        try:
            pcm = self._decoder.decode_float(packet, PACKET_SAMPLES_MAX)
        except OpusError as error:
            raise OpusPacketError(str(error)) from None
        return np.frombuffer(pcm, _SAMPLE)


class OpusEncoder:
    """Encodes one stream; a packet is as long as the samples given for it.

    Attributes:
        lookahead_samples: how far the decoded sound is behind, at 24 kHz.
    """

    def __init__(self) -> None:
        self._encoder = Encoder(SAMPLE_RATE_HZ, 1, opuslib_next.APPLICATION_VOIP)
        self.lookahead_samples = int(self._encoder.lookahead)

    def encode(self, samples: Pcm) -> bytes:
        """Samples `[S]` as one packet; S is 60, 120, 240, 480, 960, 1440, 1920, 2400 or 2880."""
        packet: bytes = self._encoder.encode_float(samples.astype(_SAMPLE).tobytes(), len(samples))
        return packet
