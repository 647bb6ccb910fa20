"""What the server says of itself while it lives, stalls or is measured."""

import threading

import pytest
import trio
from support.web.small_engine import SETTINGS, small_server, speech, talker
from support.web.sockets import ask

PROFILE = "/profile/lm?steps=20&warmup=3"


async def test_a_stalled_line_is_not_live():
    """A supervisor learns that only a restart helps; everything else is still answered."""
    async with small_server() as served:
        served.engine.stalled = True
        answer = await ask(served, "/health/live")
        assert (answer.status, answer.json) == (503, {"status": "stalled"})
        assert (await ask(served, "/health")).status == 200
        assert b"packet_voice_stalled 1.0" in (await ask(served, "/metrics")).body


async def test_a_profile_measures_steps():
    """So many were measured, and their figures are in order."""
    async with small_server() as served:
        answer = await ask(served, PROFILE)
        assert (await ask(served, "/profile/lm")).json["steps"] == 50
    assert answer.status == 200
    assert (answer.json["steps"], answer.json["warmup"]) == (20, 3)
    assert answer.json["model"] == {"name": "small", "trained": False}
    figures = answer.json["stepMs"]
    assert 0 <= figures["p50"] <= figures["p95"] <= figures["p99"] <= figures["max"]
    assert figures["avg"] <= figures["max"]


@pytest.mark.parametrize(
    "query",
    [
        "steps=0",
        "steps=501",
        "steps=-1",
        "steps=1.5",
        "steps=",
        "steps=ten",
        "steps=%C2%B2",
        "steps=" + "9" * 5000,
        "warmup=101",
        "warmup=-1",
    ],
)
async def test_a_profile_is_bounded(query):
    """What is no count within the bounds is refused before anything runs."""
    async with small_server() as served:
        answer = await ask(served, f"/profile/lm?{query}")
    assert (answer.status, answer.error) == (400, "bad_request")


async def test_no_profile_beside_a_session():
    """409 while a lane is open; afterwards it runs, and the next session is as if it never had."""
    async with small_server() as served:
        async with talker(served) as client:
            wanted = await client.speak(speech(6))
            answer = await ask(served, PROFILE)
            assert (answer.status, answer.error) == (409, "busy")
        while (await ask(served, "/health")).json["lanes"]["open"]:
            await trio.lowlevel.checkpoint()
        assert (await ask(served, PROFILE)).status == 200
        async with talker(served) as client:
            assert await client.speak(speech(6)) == wanted


async def test_a_session_ends_a_profile():
    """Whoever opens a lane meanwhile is served at once; the profile gives way with 409."""
    async with small_server() as served:
        answers = []

        async def profile():
            answers.append(await ask(served, "/profile/lm?steps=500&warmup=100"))

        async with trio.open_nursery() as nursery:
            begun = served.engine._stepper.call_between_batches

            async def between(call):
                if not answers and not joined.is_set():
                    nursery.start_soon(join)
                    joined.set()
                    await left.wait()
                return await begun(call)

            async def join():
                async with talker(served) as client:
                    assert len(await client.speak(speech(3))) == 2
                    left.set()
                    while not answers:
                        await trio.lowlevel.checkpoint()

            joined, left = trio.Event(), trio.Event()
            served.engine._stepper.call_between_batches = between
            nursery.start_soon(profile)
    assert [(answer.status, answer.error) for answer in answers] == [(409, "busy")]


async def test_one_profile_at_a_time():
    """Two would measure each other."""
    async with small_server() as served:
        begun = trio.Event()
        go_on = trio.Event()
        call = served.engine._stepper.call_between_batches

        async def slow(run):
            begun.set()
            await go_on.wait()
            return await call(run)

        served.engine._stepper.call_between_batches = slow
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, served, PROFILE)
            await begun.wait()
            answer = await ask(served, PROFILE)
            go_on.set()
        assert (answer.status, answer.error) == (409, "busy")
        assert (await ask(served, PROFILE)).status == 200


async def test_there_is_nothing_to_profile_before_the_models_are_there():
    """503 while they load, as for a session."""
    loaded = threading.Event()
    async with small_server(before=loaded.wait) as served:
        try:
            answer = await ask(served, PROFILE)
        finally:
            loaded.set()
    assert (answer.status, answer.error) == (503, "not_ready")
    assert "retry-after" in answer.headers


async def test_health_is_complete():
    """Everything that the overload ladder and both ends count has its place."""
    async with small_server(SETTINGS) as served, talker(served) as client:
        await client.speak(speech(3))
        health = (await ask(served, "/health")).json
    metrics = health["metrics"]
    assert metrics["ladder"] == dict.fromkeys(
        ("low", "partial", "decodeSkipped", "audioDropped", "closed"), 0
    )
    assert (metrics["underruns"], metrics["clientUnderruns"]) == (0, 0)
    assert metrics["latency"]["count"] == metrics["added"]["count"] == 2
    assert metrics["latency"]["p50"] >= metrics["added"]["p50"]
    assert metrics["packets"]["received"]["audio_chunk"] == 3
    assert metrics["packets"]["sent"]["audio_chunk"] == 2
