"""A session is the same alone or among any others: the whole engine with real models.

Others join, wait in the queue, leave, close in the middle, change their sampling, lose their connection
and resume, or are ended by a failing model: none of it shows in what a session gets. This holds with a
runner for each stage, and with a pool of fewer threads than stages, as on the server.
"""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial

import mlx.core as mx
import numpy as np
import pytest
import trio
import trio.testing
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.actors.fakes import Client, MemoryTransport, serve_client, slow_inline
from support.checkpoints import write_folder

from actors.engine import Engine, Loaders
from actors.runtime.pinned_thread import PinnedThread, Runner
from actors.runtime.thread_pool import PooledRunner, ThreadPool
from pipeline.audio.framing import payload_of
from pipeline.audio.recordings import Replay
from pipeline.cli.offline import Trace, run_recording
from pipeline.config import read_config
from pipeline.protocol import outgoing
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.metadata import Bye, Configure, ConnectionEstablished, Queued, Ready, Resumed
from pipeline.protocol.unacked import ReceivedIds
from pipeline.stages import model_stages
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.stages.stepper import StepperStage
from pipeline.values import Pcm, Persona, SamplingParams

LANES = 3
CHANGED = SamplingParams(seed=9, temperature=0.0)


@dataclass(frozen=True)
class Plan:
    """One session: when it begins, how much audio it sends, and what happens to it."""

    seed: int
    comes_s: float
    frames: int
    cut_after: int | None  # then it resumes
    away_s: float
    changes_after: int | None  # its sampling, to `CHANGED`
    fails_after: int | None
    vanishes: bool  # at its end, in place of bye


PLANS = st.builds(
    Plan,
    seed=st.integers(0, 3),
    comes_s=st.floats(0, 1),
    frames=st.integers(1, 14),
    cut_after=st.none() | st.integers(0, 13),
    away_s=st.floats(0.01, 3),
    changes_after=st.none() | st.integers(0, 13),
    fails_after=st.none() | st.none() | st.integers(0, 13),
    vanishes=st.booleans(),
)

LIMITED_S = 4.0  # from then on every lane may run
LIMITS = st.lists(st.tuples(st.floats(0, LIMITED_S), st.integers(0, LANES)), max_size=6)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> ModelStages:
    folder = write_folder(tmp_path_factory.mktemp("small"))
    return open_stages(read_config(folder, [f"lanes.max={LANES}", "text.final_after_padding=2"]))


@pytest.fixture(scope="module")
def stages_of_mlx(tmp_path_factory: pytest.TempPathFactory) -> ModelStages:
    """The same without native kernels, which a device that compiles has none of."""
    folder = write_folder(tmp_path_factory.mktemp("small"))
    settings = [f"lanes.max={LANES}", "text.final_after_padding=2", "kernels=off"]
    return open_stages(read_config(folder, settings))


def speech(seed: int, frames: int) -> Pcm:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, (frames, 1920)).astype(np.float32)


class Timed:
    """A runner on the virtual clock: a call takes `batch_s` of it, and stops it while it computes."""

    computing = 0

    def __init__(self, runner: PooledRunner | PinnedThread, batch_s: float) -> None:
        self._runner = runner
        self._batch_s = batch_s

    @asynccontextmanager
    async def acquire(self):
        async with self._runner.acquire() as thread:
            yield Timed(thread, self._batch_s)

    def expect(self, is_ready):
        self._runner.expect(is_ready)

    async def run(self, call, *args, stall_s=math.inf, abandon_on_cancel=False):
        if isinstance(self._runner, PooledRunner):
            async with self.acquire() as thread:
                return await thread.run(call, *args, stall_s=stall_s, abandon_on_cancel=abandon_on_cancel)
        with trio.CancelScope(shield=True):
            await trio.sleep(self._batch_s)
        clock = trio.lowlevel.current_clock()
        Timed.computing += 1
        clock.autojump_threshold = math.inf
        try:
            return await self._runner.run(call, *args, stall_s=stall_s, abandon_on_cancel=abandon_on_cancel)
        finally:
            Timed.computing -= 1
            if not Timed.computing:
                clock.autojump_threshold = 0


Runners = Callable[[str], AbstractContextManager[Runner]]


@contextmanager
def separate_runners() -> Iterator[Runners]:
    """A runner for each stage, without threads."""
    yield partial(slow_inline, batch_s=0.02)


@contextmanager
def pool() -> Iterator[Runners]:
    """Two threads for three stages."""
    threads = ThreadPool([PinnedThread(f"models {number}") for number in range(2)])

    @contextmanager
    def runner_of(name: str) -> Iterator[Runner]:
        with threads.runner(name) as runner:
            yield Timed(runner, 0.01)

    with threads.running():
        yield runner_of


@lru_cache(maxsize=64)
def alone(stages: ModelStages, seed: int, frames: int, changes_after: int | None) -> Trace:
    changes = {} if changes_after is None else {changes_after: [CHANGED]}
    audio = speech(seed, frames)
    return run_recording(
        stages,
        Replay(
            "small",
            "",
            SamplingParams(seed=seed),
            changes,
            {},
            audio,
            complete=True,
            persona=Persona(),
            prompt_key=None,
        ),
    )


class Fragile(StepperStage):
    """Raises once for each lane in `doomed`, and counts the lanes of that batch."""

    doomed: set[int]
    hurt: int
    seen: Counter[str]

    def step(self, lanes, codes):
        self.seen["shared batch"] += len(lanes) > 1
        hit = self.doomed & set(lanes)
        if hit:
            self.doomed -= hit
            self.hurt += len(lanes)
            raise ArithmeticError("diverged")
        return super().step(lanes, codes)


async def connect(
    engine: Engine, nursery: trio.Nursery, received_ids: ReceivedIds, token: str | None
) -> Client:
    client = Client(MemoryTransport(buffer=1000))
    client.conversation = Conversation(
        "client",
        heartbeat_every_s=5,
        heartbeat_timeout_s=math.inf,
        now_s=trio.current_time(),
        received_ids=received_ids,
    )
    nursery.start_soon(serve_client, engine, client, token)
    nursery.start_soon(client.listen)
    return client


@dataclass
class Result:
    """What a session received over all its connections, and whether a model failed on it."""

    text: list[str]
    pcm: list[Pcm]
    failed: bool


async def live(engine: Engine, plan: Plan, stage: Fragile) -> Result:
    """One session from beginning to end."""
    await trio.sleep(plan.comes_s)
    received_ids = ReceivedIds()
    clients: list[Client] = []
    async with trio.open_nursery() as nursery:
        client = await connect(engine, nursery, received_ids, None)
        clients.append(client)
        await client.send(outgoing.metadata(Configure(seed=plan.seed)))
        await client.until(lambda c: any(isinstance(m, Ready) for m in c.metadata))
        stage.seen["queued"] += any(isinstance(m, Queued) for m in client.metadata)
        session = next(c.session for c in engine._connections if c._transport is client.transport)
        for index, frame in enumerate(speech(plan.seed, plan.frames)):
            if client.over:
                break
            if index == plan.cut_after:
                await trio.sleep(0.5)  # what is on its way arrives
                if client.over:
                    break
                client.transport.vanish()
                await trio.sleep(plan.away_s)
                greeting = next(m for m in client.metadata if isinstance(m, ConnectionEstablished))
                client = await connect(engine, nursery, received_ids, greeting.resume_token)
                clients.append(client)
                await client.until(lambda c: any(isinstance(m, Resumed) for m in c.metadata))
            if index == plan.fails_after:
                stage.doomed.add(session.lease.lane)
            if index == plan.changes_after:
                stage.seen["changed"] += 1
                change = Configure(seed=CHANGED.seed, temperature=CHANGED.temperature)
                await client.send(outgoing.metadata(change))
            while not session.lease.running and not client.over:  # it was put back: this has no effect
                stage.seen["put back"] += 1
                await client.send(outgoing.audio(payload_of(-frame), 0.0))
                await trio.sleep(0.08)
            await client.send(outgoing.audio(payload_of(frame), 0.0))
            await trio.sleep(0.08)
        else:
            await trio.sleep(0.5)
            if client.over:
                pass
            elif plan.vanishes:
                client.transport.vanish()
            else:
                await client.send(outgoing.metadata(Bye()))
                await client.until(lambda c: c.over)
    return Result(
        [text for c in clients for text in c.finals],
        [frame for c in clients for frame in c.frames],
        "internal_error" in client.errors,
    )


async def run(
    stages: ModelStages,
    plans: list[Plan],
    limits: list[tuple[float, int]],
    runner: Runners,
    seen: Counter[str],
) -> None:
    """Run all plans at once, with (time, number of sessions that may run); `seen` counts what happened."""
    steppers: list[Fragile] = []

    def load_stepper() -> Fragile:
        stage = stages.load_stepper()
        stage.__class__ = Fragile
        stage.doomed, stage.hurt, stage.seen = set(), 0, seen
        steppers.append(stage)
        return stage

    config = read_config(
        stages.bundle.lm_path.parent,
        [
            f"lanes.max={LANES}",
            f"lanes.admit={LANES}",
            "lanes.queue=8",
            "sampling.seed=0",
            "text.final_after_padding=2",
        ],
    )
    engine = Engine(
        config.settings,
        Loaders(stages.load_encoder, load_stepper, stages.load_decoder),
        stages.card,
        lanes=LANES,
        runner=runner,
    )
    results: dict[int, Result] = {}
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await engine.ready.wait()

        async def one(number: int) -> None:
            results[number] = await live(engine, plans[number], steppers[0])

        async def set_limits() -> None:
            began_s = trio.current_time()
            for at_s, limit in [*sorted(limits), (LIMITED_S, LANES)]:
                await trio.sleep_until(began_s + at_s)
                engine.admission.set_limit(limit)

        async with trio.open_nursery() as sessions:
            sessions.start_soon(set_limits)
            for number in range(len(plans)):
                sessions.start_soon(one, number)
        await trio.sleep(11)  # sessions that vanished wait for their clients
        health = engine.health()
        assert (health["lanes"]["open"], health["waiting"], health["clients"]) == (0, 0, 0)
        assert sum(health["endings"].values()) == len(plans)
        assert health["metrics"]["dropped"]["audio"] == health["metrics"]["ladder"]["decodeSkipped"] == 0
        await engine.drain()
    assert sum(each.failed for each in results.values()) == steppers[0].hurt
    seen["resumed"] += health["resumed"] > 0
    seen["fault"] += steppers[0].hurt > 0
    for number, plan in enumerate(plans):
        each, due = results[number], alone(stages, plan.seed, plan.frames, plan.changes_after)
        count = len(each.text) if each.failed or plan.vanishes else len(due.text)
        assert each.text == due.text[:count]
        assert each.failed or len(each.pcm) == len(due.agent_pcm)
        for mine, theirs in zip(each.pcm, due.agent_pcm, strict=False):
            np.testing.assert_allclose(mine, theirs, atol=1e-4)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stages compute by graphs, whose functions are called as they are when they are compiled."""
    for name in ("EncoderStage", "StepperStage", "DecoderStage"):
        stage = getattr(model_stages, name)
        monkeypatch.setattr(model_stages, name, partial(stage, compiles=True))
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.mark.usefixtures("graphs")
def test_a_session_is_as_if_alone_with_compiled_models(stages_of_mlx: ModelStages) -> None:
    """With every lane in a slot of a compiled function of fixed width."""
    check_isolation(copy.copy(stages_of_mlx), pool, examples=12)


@pytest.mark.parametrize("runners", [separate_runners, pool])
def test_a_session_is_as_if_alone(
    stages: ModelStages, runners: Callable[[], AbstractContextManager[Runners]]
) -> None:
    """Interleaved at random with sessions that join, queue, leave, vanish, resume, change, fail and are put
    back. Each of these happened."""
    check_isolation(stages, runners, examples=12)


def check_isolation(
    stages: ModelStages, runners: Callable[[], AbstractContextManager[Runners]], examples: int
) -> None:
    seen: Counter[str] = Counter()

    @given(st.lists(PLANS, min_size=2, max_size=6), LIMITS)
    # Without shrinking: an example takes a second, and shrinking takes hundreds.
    @settings(max_examples=examples, deadline=None, derandomize=True, phases=[Phase.generate])
    def check(plans: list[Plan], limits: list[tuple[float, int]]) -> None:
        with runners() as runner:
            clock = trio.testing.MockClock(autojump_threshold=0)
            trio.run(run, stages, plans, limits, runner, seen, clock=clock)

    check()
    assert set(+seen) == {"shared batch", "queued", "changed", "resumed", "fault", "put back"}, seen
