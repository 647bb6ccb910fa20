"""Measures how many sessions of a model this machine can serve in time, by an engine without a server.

Neighbours: `actors.capacity` is the calculation, `stage_timing` times the stages one after the other. What
does not belong here: estimates for models that are not there.
"""

from functools import partial

import trio
from msgspec.structs import replace

from actors.capacity import Capacity
from actors.engine import Engine, Loaders
from actors.runtime.pinned_thread import PinnedThread
from actors.runtime.thread_pool import ThreadPool
from pipeline import backend
from pipeline.config import Settings
from pipeline.stages.model_stages import ModelStages


def model_threads() -> ThreadPool:
    """The threads on which a server of this machine runs its models."""
    return ThreadPool([
        PinnedThread(f"models {n}", partial(backend.pinned_to, cores))
        for n, cores in enumerate(backend.core_affinity())
    ])  # fmt: skip


def measure_machine(settings: Settings, stages: ModelStages) -> Capacity:
    """Load the stages on the threads of a server, and measure as it does at its start.

    Raises:
        WeightsError: the weights cannot be loaded.
    """
    threads = model_threads()
    automatic = replace(settings, lanes=replace(settings.lanes, admit="auto"))
    loaders = Loaders(stages.load_encoder, stages.load_stepper, stages.load_decoder)
    engine = Engine(
        automatic,
        loaders,
        stages.card,
        lanes=stages.lanes,
        runner=threads.runner,
        model_threads=threads.size,
    )

    async def measure() -> Capacity:
        with threads.running():
            async with trio.open_nursery() as nursery:
                await nursery.start(engine.run)
                await engine.ready.wait()
                await engine.drain()
        assert engine.capacity is not None
        return engine.capacity

    return trio.run(measure)
