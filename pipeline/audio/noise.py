"""White noise in frames, always the same: input for benchmarks and load tests, whatever its content."""

import numpy as np

from pipeline.units import FRAME_SAMPLES
from pipeline.values import Pcm


def noise_frames(count: int, seed: int = 1) -> Pcm:
    """`[count, 1920]` of white noise, -20 dB relative to full scale."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return (0.1 * generator.standard_normal((count, FRAME_SAMPLES))).astype(np.float32)
