"""Measures the time per frame of a model's stages and of the full-size codec.

The stages run one after the other on one thread, as fast as possible; in a server they overlap. Once a
batch takes twice as long as a frame lasts, wider batches are skipped because they take longer still.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.audio.noise import noise_frames
from pipeline.diagnostics.stage_runner import StageRunner
from pipeline.models import random_init
from pipeline.models.checkpoint.mimi_config import parse_mimi_config
from pipeline.models.mimi import Mimi
from pipeline.percentiles import percentiles
from pipeline.stages.batch import bucket_widths
from pipeline.stages.decoder import DecoderStage
from pipeline.stages.encoder import EncoderStage
from pipeline.stages.model_stages import ModelStages
from pipeline.units import FRAME_MS
from pipeline.values import GREEDY

CODEBOOKS: Final = 8  # as in Moshi; the 16 of Hibiki take about 10 % longer
_WARMUP_FRAMES: Final = 5
_MIN_FRAMES: Final = 5
_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Milliseconds per batch: the median of each stage, and p50 and p99 of their sum."""

    encode_ms: float
    step_ms: float
    decode_ms: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[tuple[float, float, float]]) -> "StageTimes":
        """Summarize the seconds to encode, step and decode each frame."""
        ms = 1000 * np.array(seconds)
        whole = ms.sum(axis=1)
        encode_ms, step_ms, decode_ms = np.median(ms, axis=0).tolist()
        p50_ms, p99_ms = percentiles(whole.tolist(), 50, 99)
        return cls(encode_ms, step_ms, decode_ms, p50_ms, p99_ms)


def time_stages(stages: ModelStages, seconds: float) -> dict[int, StageTimes]:
    """Time a model's three stages at each batch width up to its lanes, for `seconds` each."""
    with StageRunner.of(stages) as runner:

        def frame(width: int) -> tuple[float, float, float]:
            lanes = range(min(width, stages.lanes))
            return runner.time_frame(lanes, noise_frames(len(lanes)))

        return dict(_time_widths(bucket_widths(stages.lanes), frame, seconds))


def time_codec(lanes: int, seconds: float) -> dict[int, StageTimes]:
    """Time the full-size codec with random weights, at each batch width; the step counts as 0.

    Raises:
        OSError: there is no room for its temporary weights file of 0.3 GB.
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
        codes = encoder.encode(range(width), noise_frames(width))
        encoded_s = time.perf_counter()
        decoder.decode(range(width), codes)
        return encoded_s - began_s, 0.0, time.perf_counter() - encoded_s

    return dict(_time_widths(bucket_widths(lanes), frame, seconds))


def as_json(times: dict[int, StageTimes]) -> dict[str, Any]:
    """The times by batch width, for JSON output."""
    return {
        str(width): {name: round(getattr(each, name), 2) for name in StageTimes.__slots__}
        for width, each in times.items()
    }


def _time_widths(
    widths: Sequence[int], frame: Callable[[int], tuple[float, float, float]], seconds: float
) -> Iterator[tuple[int, StageTimes]]:
    for width in widths:
        for _ in range(_WARMUP_FRAMES):
            frame(width)
        taken: list[tuple[float, float, float]] = []
        end_s = time.perf_counter() + seconds
        while len(taken) < _MIN_FRAMES or time.perf_counter() < end_s:
            taken.append(frame(width))
        times = StageTimes.of(taken)
        yield width, times
        if times.p50_ms > 2 * FRAME_MS:
            return
