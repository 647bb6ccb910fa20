"""Sessions that begin with a voice and a role: when they may talk, and what others notice of it."""

import dataclasses
import functools
import json
import threading

import numpy as np
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from support.actors.fakes import (
    LOADERS,
    Client,
    Loaders,
    MemoryTransport,
    SumPersonas,
    SumStepper,
    expected,
    make_engine,
    serve_client,
    slow_inline,
    speech,
)

from actors.engine import Engine
from actors.sessions.prompting import MAX_POSITIONS, SLICE_S, Prompter, SliceSize, ThreadedPersonas
from pipeline.audio.framing import payload_of
from pipeline.errors import ConfigError, PromptError
from pipeline.protocol import outgoing
from pipeline.protocol.close_reason import CloseReason
from pipeline.protocol.metadata import Bye, Configure, ErrorNotice, Ready
from pipeline.units import FRAME_MS
from pipeline.values import Persona, Prompt, SamplingParams

FRAME_S = FRAME_MS / 1000
CALIBRATING_SLICES = 7
ROLE = " ".join(str(n % 7) for n in range(300))
SHIFT = sum(n % 7 for n in range(300))


class Watched(SumStepper):
    """Remembers the order of slices and steps."""

    made: "Watched"

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []
        Watched.made = self

    def advance_prompt(self, lane: int, prompt: Prompt, positions: int) -> bool:
        self.order.append("slice")
        return super().advance_prompt(lane, prompt, 4)

    def step(self, lanes, codes):
        self.order.append("step")
        return super().step(lanes, codes)


WATCHED = Loaders(LOADERS.encoder, Watched, LOADERS.decoder)


async def serving(engine: Engine, nursery: trio.Nursery) -> Engine:
    await nursery.start(engine.run)
    await engine.ready.wait()
    return engine


def readies(client: Client) -> list[Ready]:
    return [notice for notice in client.metadata if isinstance(notice, Ready)]


async def join(engine: Engine, nursery: trio.Nursery, *configures: Configure, buffer: int = 64) -> Client:
    client = Client(MemoryTransport(buffer=buffer))
    nursery.start_soon(serve_client, engine, client)
    nursery.start_soon(client.listen)
    await client.ready()
    await client.send(*map(outgoing.metadata, configures))
    return client


async def has_role(client: Client, role: str | None) -> None:
    await client.until(lambda c: readies(c)[-1].role == role)


def same(received: list[np.ndarray], due: list[np.ndarray]) -> bool:
    return len(received) == len(due) and all(map(np.array_equal, received, due))


async def test_a_session_begins_with_the_role_that_it_asks_for(autojump_clock, nursery):
    """It is told when it may talk; what it sends before that is not answered."""
    engine = await serving(make_engine(runner=functools.partial(slow_inline, batch_s=0.02)), nursery)
    client = await join(engine, nursery, Configure(seed=3, role=ROLE))
    early, frames = speech(1, 2), speech(2, 6)
    await client.stream(early, every_s=0)
    await has_role(client, ROLE)
    await client.stream(frames)
    await client.until(lambda c: len(c.audio) == 4)
    assert same(client.frames, expected(frames, 3 + SHIFT))
    await client.bye()


async def test_other_sessions_wait_for_one_slice_at_most(autojump_clock, nursery):
    """While a prompt is computed, a batch that waits runs before the next slice."""
    slow = functools.partial(slow_inline, batch_s=0.015)
    engine = await serving(make_engine(runner=slow, loaders=WATCHED), nursery)
    client = await join(engine, nursery, Configure(seed=3))
    frames = speech(1, 30)
    async with trio.open_nursery() as talking:
        talking.start_soon(client.stream, frames)
        await trio.sleep(0.1)
        other = await join(engine, nursery, Configure(role=ROLE))
        await has_role(other, ROLE)
    await client.until(lambda c: len(c.audio) == 28)
    assert same(client.frames, expected(frames, 3))
    order = Watched.made.order
    first, last = order.index("slice"), len(order) - order[::-1].index("slice")
    assert order.count("slice") == 75
    # The slices alone take as long as 14 frames: their steps are among them, and none was late.
    assert order[first:last].count("step") >= 14
    assert engine._dispatcher.punctuality().late == 0
    await client.bye()
    await other.bye()


async def test_several_prompts_at_once_hold_nobody_up_for_longer(autojump_clock, nursery):
    """A batch waits for one slice, not for one of each prompt."""
    batch_s = 0.02
    slow = functools.partial(slow_inline, batch_s=batch_s)
    engine = await serving(make_engine(runner=slow, loaders=WATCHED), nursery)
    client = await join(engine, nursery, Configure(seed=3))
    frames, sent_s, received_s = speech(1, 30), [], []

    async def stream() -> None:
        for index, frame in enumerate(frames):
            sent_s.append(trio.current_time())
            await client.send(outgoing.audio(payload_of(frame), float(index)))
            await trio.sleep(FRAME_S)

    async def note() -> None:
        for count in range(1, 29):
            await client.until(lambda c, n=count: len(c.audio) >= n)
            received_s.append(trio.current_time())

    async with trio.open_nursery() as talking:
        talking.start_soon(stream)
        talking.start_soon(note)
        await trio.sleep(0.1)
        others = [await join(engine, nursery, Configure(role=f"{n} {ROLE}")) for n in range(3)]
    assert same(client.frames, expected(frames, 3))
    assert Watched.made.order.count("slice") > 30
    waits_s = [b - sent_s[int(e.timestamp_ms)] for b, e in zip(received_s, client.audio, strict=True)]
    began = 6  # by then all of the others are open
    assert max(waits_s[began:]) <= 4 * batch_s + 1e-6  # its own three batches, and one slice
    for each in (client, *others):
        each.transport.vanish()


async def test_two_sessions_with_the_same_persona_wait_for_one_computation(autojump_clock, nursery):
    """Whoever asks second gets the first one's result."""
    engine = await serving(
        make_engine(runner=functools.partial(slow_inline, batch_s=0.02), loaders=WATCHED), nursery
    )
    first = await join(engine, nursery, Configure(role=ROLE))
    second = await join(engine, nursery, Configure(role=ROLE))
    await has_role(first, ROLE)
    await has_role(second, ROLE)
    assert len(Watched.made.slices) == 75 + 1  # the second asks once, and it is there
    await first.bye()
    await second.bye()


async def test_a_persona_that_there_is_not_is_one_sentence(autojump_clock, nursery):
    """The session keeps what it had, and continues."""
    engine = await serving(make_engine(), nursery)
    client = await join(engine, nursery, Configure(role="5 6"))
    await has_role(client, "5 6")
    await client.send(outgoing.metadata(Configure(voice="none")))
    await client.until(lambda c: "prompt_refused" in c.errors and len(readies(c)) == 3)
    assert "there is no voice none" in [n.message for n in client.metadata if isinstance(n, ErrorNotice)]
    await has_role(client, "5 6")
    assert readies(client)[-1].voice is None
    frames = speech(2, 5)
    await client.stream(frames)
    await client.until(lambda c: len(c.audio) == 3)
    assert same(client.frames, expected(frames, 11))
    await client.send(outgoing.metadata(Configure(role="7")))
    await client.until(lambda c: c.errors.count("prompt_refused") == 2)
    await client.stream(speech(3, 1))
    await client.until(lambda c: len(c.audio) == 4)
    await client.bye()


@pytest.mark.parametrize("had", [None, "5 6"])
async def test_what_is_refused_leaves_nothing_of_what_was_computed_before_it(autojump_clock, nursery, had):
    """The prompt that was asked for in between is in the lane by then, and the session does not begin so."""
    slow = functools.partial(slow_inline, batch_s=0.02)
    engine = await serving(make_engine(runner=slow, loaders=WATCHED), nursery)
    client = await join(engine, nursery)
    if had is not None:
        await client.send(outgoing.metadata(Configure(role=had)))
        await has_role(client, had)
    count = len(readies(client))
    await client.send(outgoing.metadata(Configure(role=ROLE)))
    await trio.sleep(0.2)
    await client.send(outgoing.metadata(Configure(voice="none")))
    await client.until(lambda c: len(readies(c)) > count)
    assert client.errors == ["prompt_refused"]
    assert readies(client)[-1] == Ready(None, had)
    frames = speech(2, 5)
    await client.stream(frames)
    await client.until(lambda c: len(c.audio) == 3)
    assert same(client.frames, expected(frames, 11 if had else 0))
    await client.bye()


async def test_what_was_chosen_is_kept_where_there_is_a_default(autojump_clock, nursery):
    """Neither voice nor role is a choice, too: what is refused after it does not bring the default back."""
    engine = await serving(make_engine(prompt={"role": "5 6"}), nursery)
    client = await join(engine, nursery, Configure(role=""))
    await has_role(client, None)
    count = len(readies(client))
    await client.send(outgoing.metadata(Configure(voice="none")))
    await client.until(lambda c: len(readies(c)) > count)
    assert readies(client)[-1] == Ready(None, None)
    await client.bye()


async def test_an_empty_role_is_none(autojump_clock, nursery):
    """A session may take its choice back before it talks."""
    engine = await serving(make_engine(prompt={"role": "5 6"}), nursery)
    client = await join(engine, nursery)
    assert readies(client)[-1] == Ready(None, "5 6")
    await client.send(outgoing.metadata(Configure(role="")))
    await has_role(client, None)
    frames = speech(2, 5)
    await client.stream(frames)
    await client.until(lambda c: len(c.audio) == 3)
    assert same(client.frames, expected(frames, 0))
    await client.bye()


async def test_the_default_persona_is_computed_before_anybody_is_admitted(autojump_clock, nursery):
    """Then every session begins with it at once."""
    engine = await serving(make_engine(prompt={"role": ROLE}, loaders=WATCHED), nursery)
    assert len(Watched.made.slices) == 75
    client = await join(engine, nursery)
    assert readies(client) == [Ready(None, ROLE)]
    assert len(Watched.made.slices) == 76
    await client.bye()


async def test_slices_are_measured_before_anybody_is_admitted(autojump_clock, nursery):
    """Where there is no default prompt, with another one; a model without prompts computes none."""
    engine = make_engine(loaders=WATCHED)
    engine.card = dataclasses.replace(engine.card, voices=("anna",))
    await serving(engine, nursery)
    assert {key for _, key, _ in Watched.made.slices} == {"calibration"}
    await serving(make_engine(loaders=WATCHED), nursery)
    assert Watched.made.slices == []


async def test_an_impossible_default_is_an_error_of_the_configuration(autojump_clock):
    """It ends the start, in one sentence."""
    with pytest.raises(BaseExceptionGroup) as raised:
        await make_engine(prompt={"voice": "none"}).run()
    assert raised.group_contains(ConfigError, match="pipeline.prompt: there is no voice none")


class Forgetful(SumPersonas):
    """From some time on there is no voice at all."""

    voices = True

    async def build(self, persona: Persona) -> Prompt | None:
        if persona.voice is not None and not self.voices:
            raise PromptError(f"there is no voice {persona.voice}")
        return await super().build(persona)


async def test_a_default_that_is_impossible_by_now_is_told(autojump_clock, nursery):
    """Its voice was removed while the server ran: the session begins without, and says so."""
    personas = Forgetful()
    engine = make_engine(prompt={"voice": "anna", "role": "5 6"}, personas=personas)
    await serving(engine, nursery)
    personas.voices = False
    client = await join(engine, nursery)
    assert client.errors == ["prompt_refused"]
    assert readies(client) == [Ready(None, None)]
    frames = speech(2, 5)
    await client.stream(frames)
    await client.until(lambda c: len(c.audio) == 3)
    assert same(client.frames, expected(frames, 0))
    await client.bye()


async def test_who_is_put_back_meanwhile_is_ready_when_it_runs_again(autojump_clock, nursery):
    """Not before: its audio would not be processed."""
    slow = functools.partial(slow_inline, batch_s=0.02)
    engine = await serving(make_engine(lanes=2, runner=slow, loaders=WATCHED), nursery)
    client = await join(engine, nursery, Configure(role=ROLE, seed=3))
    await trio.sleep(0.2)
    engine.admission.set_limit(0)
    await trio.sleep(5)
    assert readies(client) == [Ready(None, None)]
    engine.admission.set_limit(1)
    await has_role(client, ROLE)
    frames = speech(2, 5)
    await client.stream(frames)
    await client.until(lambda c: len(c.audio) == 3)
    assert same(client.frames, expected(frames, 3 + SHIFT))
    await client.bye()


async def test_asking_again_and_again_does_not_keep_a_lane(autojump_clock, nursery):
    """A session that sends no audio is idle, however often it chooses."""
    engine = await serving(make_engine(idle_s=5), nursery)
    client = await join(engine, nursery)
    for count in range(12):
        if client.over:
            break
        await client.send(outgoing.metadata(Configure(role=str(count))))
        await trio.sleep(1)
    assert "idle" in client.errors
    assert count < 8


class Fails(Watched):
    def advance_prompt(self, lane: int, prompt: Prompt, positions: int) -> bool:
        if lane == 1:
            raise RuntimeError("out of something")
        return super().advance_prompt(lane, prompt, positions)


async def test_a_model_that_fails_on_a_prompt_ends_that_session_alone(autojump_clock, nursery):
    """It is told so; the other continues, and the lane can be used again."""
    engine = await serving(make_engine(loaders=Loaders(LOADERS.encoder, Fails, LOADERS.decoder)), nursery)
    client = await join(engine, nursery, Configure(seed=3))
    with capture_logs():
        other = await join(engine, nursery, Configure(role=ROLE))
        await other.until(lambda c: "internal_error" in c.errors)
    assert other.transport.close_reason is CloseReason.INTERNAL_ERROR
    frames = speech(2, 5)
    await client.stream(frames)
    await client.until(lambda c: len(c.audio) == 3)
    assert same(client.frames, expected(frames, 3))
    third = await join(engine, nursery, Configure(seed=4))
    await third.stream(frames)
    await third.until(lambda c: len(c.audio) == 3)
    assert same(third.frames, expected(frames, 4))
    await third.bye()
    await client.bye()


async def test_who_leaves_before_the_prompt_is_ready_frees_the_lane(autojump_clock, nursery):
    """And whoever waited for the same computation continues with it."""
    engine = await serving(
        make_engine(runner=functools.partial(slow_inline, batch_s=0.02), loaders=WATCHED), nursery
    )
    first = await join(engine, nursery, Configure(role=ROLE))
    second = await join(engine, nursery, Configure(role=ROLE, seed=3))
    await trio.sleep(0.2)
    first.transport.vanish()
    await has_role(second, ROLE)
    frames = speech(2, 5)
    await second.stream(frames)
    await second.until(lambda c: len(c.audio) == 3)
    assert same(second.frames, expected(frames, 3 + SHIFT))
    await second.bye()
    assert engine.admission.statistics().lanes_open == 0


async def test_who_says_bye_before_the_prompt_is_ready_leaves_the_lane_to_others(autojump_clock, nursery):
    """No slice follows the session's end: the lane may be another session's by then."""
    engine = await serving(
        make_engine(lanes=1, runner=functools.partial(slow_inline, batch_s=0.1), loaders=WATCHED), nursery
    )
    first = await join(engine, nursery, Configure(role=ROLE), buffer=0)
    first.pause_s = 30.0  # what waits to be written to it holds up the end of its connection, not of its lane
    await trio.sleep(2.5)
    opened: list[int] = []

    def note(lane: int, sampling: SamplingParams) -> None:
        opened.append(len(Watched.made.slices))
        Watched.open(Watched.made, lane, sampling)

    Watched.made.open = note
    await first.send(outgoing.metadata(Bye()))
    second = await join(engine, nursery, Configure(seed=3))
    frames = speech(2, 5)
    await second.stream(frames, every_s=0.5)
    await second.until(lambda c: len(c.audio) == 3)
    assert same(second.frames, expected(frames, 3))
    await second.bye()
    assert opened == [len(Watched.made.slices)]
    assert 5 < opened[0] < 75


class OneByOne:
    """A stepper whose slices wait for each other; `order` has their lanes."""

    def __init__(self) -> None:
        self.order: list[int] = []

    async def call_between_batches(self, call):
        self.order.append(call.keywords["lane"])
        await trio.sleep(1)
        return True, 0.02


async def test_a_lane_that_was_closed_while_others_had_their_slices_is_left_alone(autojump_clock):
    """It may be another session's by the time that its turn comes."""
    stepper, is_open = OneByOne(), True
    prompter = Prompter(stepper, SumPersonas())
    async with trio.open_nursery() as nursery:
        for lane in range(2):
            prompt = Prompt(str(lane), None, (lane,))
            nursery.start_soon(functools.partial(prompter.prepare, lane, prompt, is_open=lambda: is_open))
            await trio.testing.wait_all_tasks_blocked()
        is_open = False
    assert stepper.order == [0]


async def test_a_recording_has_what_the_session_began_with(autojump_clock, nursery, tmp_path):
    """Chosen before the recording was turned on, and after."""
    engine = await serving(make_engine(replay={"folder": str(tmp_path)}), nursery)
    client = await join(engine, nursery, Configure(role="5 6"))
    await has_role(client, "5 6")
    await client.send(outgoing.metadata(Configure(replay=True)), outgoing.metadata(Configure(role="7")))
    await has_role(client, "7")
    await client.stream(speech(2, 3))
    await client.bye()
    await trio.testing.wait_all_tasks_blocked(0.1)
    (file,) = tmp_path.rglob("session.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    keys = [(await SumPersonas().build(Persona(None, role))).key for role in ("5 6", "7")]
    assert [(line["role"], line["key"]) for line in lines if line["type"] == "prompted"] == [
        ("5 6", keys[0]),
        ("7", keys[1]),
    ]


def test_slices_grow_to_half_a_frame_and_no_further():
    """With a cost per position; and shrink where they took longer."""
    size = SliceSize()
    for _ in range(20):
        size.record(0.001 * size.positions)
    assert SLICE_S / 2 <= 0.001 * size.positions <= SLICE_S
    size.record(1.0)
    assert size.positions < 0.02 / 0.001 + 1


def test_where_weights_cost_the_most_slices_grow_although_one_step_is_slow():
    """A position more costs next to nothing there; only what it does cost is bounded."""
    size = SliceSize()
    for _ in range(20):
        size.record(0.03 + 0.00005 * size.positions)
    assert size.positions == MAX_POSITIONS
    assert 0.03 + 0.00005 * size.positions <= 1.5 * 0.03005


@pytest.mark.parametrize("one_s", [0.001, 0.03, 0.06, 0.079])
@pytest.mark.parametrize("further_s", [0.0001, 0.001, 0.01])
def test_no_slice_takes_longer_than_a_frame(one_s, further_s):
    """However long a single position takes, as long as that is less than a frame; once that is known."""
    size = SliceSize()
    for count in range(60):
        taken_s = one_s + further_s * (size.positions - 1)
        assert taken_s <= FRAME_S or count < CALIBRATING_SLICES
        size.record(taken_s)


async def test_voices_that_cannot_be_read_leave_threads_to_all_others():
    """On a disk that never answers, those who ask for a voice wait, and nobody else does."""
    gate = threading.Event()
    personas = ThreadedPersonas(lambda _: gate.wait() and None)
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(2 * int(trio.to_thread.current_default_thread_limiter().total_tokens)):
                nursery.start_soon(personas.build, Persona("anna"))
            await trio.testing.wait_all_tasks_blocked()
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            nursery.cancel_scope.cancel()
    finally:
        gate.set()
