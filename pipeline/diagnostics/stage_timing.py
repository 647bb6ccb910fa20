"""Times what this machine would do 12.5 times a second: the stages of a model, and the full-size codec.

One after the other on one thread, as fast as they go; in a server they overlap. Widths that take
far longer than a frame lasts are not tried: a wider batch takes longer still.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.diagnostics.stage_runner import Rig
from pipeline.models import random_init
from pipeline.models.checkpoint.mimi_config import parse_mimi_config
from pipeline.models.mimi import Mimi
from pipeline.stages.batch import bucket_widths
from pipeline.stages.chain import Chain
from pipeline.stages.decoder import DecoderStage
from pipeline.stages.encoder import EncoderStage
from pipeline.units import FRAME_MS, FRAME_SAMPLES
from pipeline.values import GREEDY, Pcm

CODEBOOKS: Final = 8  # of Moshi; Hibiki's 16 cost a tenth more
_WARM_FRAMES: Final = 5
_LEAST_FRAMES: Final = 5
_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of one batch: of each stage the median, and of all of them."""

    encode_ms: float
    step_ms: float
    decode_ms: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[tuple[float, float, float]]) -> "Times":
        """From the seconds of encode, step and decode of each frame."""
        ms = 1000 * np.array(seconds)
        whole = ms.sum(axis=1)
        encode_ms, step_ms, decode_ms = np.median(ms, axis=0).tolist()
        p50_ms, p99_ms = np.percentile(whole, (50, 99)).tolist()
        return cls(encode_ms, step_ms, decode_ms, p50_ms, p99_ms)


def time_chain(chain: Chain, seconds: float) -> dict[int, Times]:
    """Times of a model's three stages at each width up to its lanes, `seconds` long each."""
    with Rig.of(chain) as rig:

        def frame(width: int) -> tuple[float, float, float]:
            lanes = range(min(width, chain.lanes))
            return rig.frame(lanes, _noise(len(lanes)))

        return dict(_widening(bucket_widths(chain.lanes), frame, seconds))


def time_codec(lanes: int, seconds: float) -> dict[int, Times]:
    """The same of the codec that every published model has, with random weights; a step takes nothing.

    Raises:
        OSError: its weights, 0.3 GB, cannot be written for a moment.
    """
    config = parse_mimi_config({"quantizer": {"n_q": CODEBOOKS}})
    mimi = Mimi(config, CODEBOOKS)
    with tempfile.TemporaryDirectory(prefix="packet-voice-") as folder:
        path = Path(folder, "mimi.safetensors")
        random_init.write_checkpoint(path, random_init.mimi_tensors(config), _SEED)
        mimi.load_weights(path)
    encoder, decoder = EncoderStage(mimi, lanes), DecoderStage(mimi, lanes, CODEBOOKS)
    for lane in range(lanes):
        encoder.open(lane, GREEDY)
        decoder.open(lane, GREEDY)

    def frame(width: int) -> tuple[float, float, float]:
        began_s = time.perf_counter()
        codes = encoder.encode(range(width), _noise(width))
        encoded_s = time.perf_counter()
        decoder.decode(range(width), codes)
        return encoded_s - began_s, 0.0, time.perf_counter() - encoded_s

    return dict(_widening(bucket_widths(lanes), frame, seconds))


def as_json(times: dict[int, Times]) -> dict[str, Any]:
    """By width, for tools."""
    return {
        str(width): {name: round(getattr(each, name), 2) for name in Times.__slots__}
        for width, each in times.items()
    }


def _widening(
    widths: Sequence[int], frame: Callable[[int], tuple[float, float, float]], seconds: float
) -> Iterator[tuple[int, Times]]:
    for width in widths:
        for _ in range(_WARM_FRAMES):
            frame(width)
        taken: list[tuple[float, float, float]] = []
        end_s = time.perf_counter() + seconds
        while len(taken) < _LEAST_FRAMES or time.perf_counter() < end_s:
            taken.append(frame(width))
        times = Times.of(taken)
        yield width, times
        if times.p50_ms > 2 * FRAME_MS:
            return


def _noise(width: int) -> Pcm:
    generator = np.random.Generator(np.random.PCG64(_SEED))
    return (0.1 * generator.standard_normal((width, FRAME_SAMPLES))).astype(np.float32)
