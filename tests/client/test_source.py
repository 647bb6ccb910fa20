import numpy as np
import pytest
import trio

from pipeline.client.source import now_ns, paced


async def test_a_recording_is_paced_by_the_clock_alone(autojump_clock):
    """Frame k comes 80·(k+1) ms after the start, however long the consumer took for those before.

    A frame delivered late, because the consumer was late, still has its capture time.
    """
    start_ns = now_ns()
    taken_ms = [0, 70, 0, 200, 0, 0, 0]
    frames, late_ms = [], []
    async for captured in paced(np.arange(12_000, dtype=np.float32)):
        assert captured.at_ns - start_ns == pytest.approx(80e6 * (len(frames) + 1), abs=1000)
        late_ms.append(round((now_ns() - captured.at_ns) / 1e6))
        await trio.sleep(taken_ms[len(frames)] / 1000)
        frames.append(captured.pcm)
    assert late_ms == [0, 0, 0, 0, 120, 40, 0]
    assert np.array_equal(np.concatenate(frames)[:12_000], np.arange(12_000))
