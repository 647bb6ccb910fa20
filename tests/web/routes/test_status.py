"""Health, liveness and profiles."""

import threading

import pytest
import trio
from support.web.small_engine import SETTINGS, packet_client, small_server, speech
from support.web.sockets import fetch, until_closed

PROFILE = "/profile/lm?steps=20&warmup=3"


async def test_a_stalled_engine_is_not_live():
    """/health/live fails, so that a supervisor restarts the process; everything else is still served."""
    async with small_server() as served:
        served.engine.stalled = True
        answer = await fetch(served, "/health/live")
        assert (answer.status, answer.json) == (503, {"status": "stalled"})
        assert (await fetch(served, "/health")).status == 200
        assert b"packet_voice_stalled 1.0" in (await fetch(served, "/metrics")).body


async def test_a_profile_measures_steps():
    """As many as requested; percentiles are in order."""
    async with small_server() as served:
        answer = await fetch(served, PROFILE)
        assert (await fetch(served, "/profile/lm")).json["steps"] == 50
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
    """A count out of bounds is refused before anything runs."""
    async with small_server() as served:
        answer = await fetch(served, f"/profile/lm?{query}")
    assert (answer.status, answer.error) == (400, "bad_request")


async def test_no_profile_beside_a_session():
    """409 while a lane is open; a profile afterwards does not change the next session."""
    async with small_server() as served:
        async with packet_client(served) as client:
            wanted = await client.exchange(speech(6))
            answer = await fetch(served, PROFILE)
            assert (answer.status, answer.error) == (409, "busy")
        await until_closed(served)
        assert (await fetch(served, PROFILE)).status == 200
        async with packet_client(served) as client:
            assert await client.exchange(speech(6)) == wanted


async def test_a_session_ends_a_profile():
    """A new session is served at once; the running profile ends with 409."""
    async with small_server() as served:
        answers = []

        async def profile():
            answers.append(await fetch(served, "/profile/lm?steps=500&warmup=100"))

        async with trio.open_nursery() as nursery:
            begun = served.engine._stepper.call_between_batches

            async def between(call):
                if not answers and not joined.is_set():
                    nursery.start_soon(join)
                    joined.set()
                    await left.wait()
                return await begun(call)

            async def join():
                async with packet_client(served) as client:
                    assert len(await client.exchange(speech(3))) == 2
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
            nursery.start_soon(fetch, served, PROFILE)
            await begun.wait()
            answer = await fetch(served, PROFILE)
            go_on.set()
        assert (answer.status, answer.error) == (409, "busy")
        assert (await fetch(served, PROFILE)).status == 200


async def test_no_profile_while_models_load():
    """503, as for a session."""
    loaded = threading.Event()
    async with small_server(before=loaded.wait) as served:
        try:
            answer = await fetch(served, PROFILE)
        finally:
            loaded.set()
    assert (answer.status, answer.error) == (503, "not_ready")
    assert "retry-after" in answer.headers


async def test_health_is_complete():
    """Overload actions, underruns, latency and packets are all in /health."""
    async with small_server(SETTINGS) as served, packet_client(served) as client:
        await client.exchange(speech(3))
        health = (await fetch(served, "/health")).json
    metrics = health["metrics"]
    assert metrics["ladder"] == dict.fromkeys(
        ("low", "partial", "decodeSkipped", "audioDropped", "closed"), 0
    )
    assert (metrics["underruns"], metrics["clientUnderruns"]) == (0, 0)
    assert metrics["latency"]["count"] == metrics["added"]["count"] == 2
    assert metrics["latency"]["p50"] >= metrics["added"]["p50"]
    assert metrics["packets"]["received"]["audio_chunk"] == 3
    assert metrics["packets"]["sent"]["audio_chunk"] == 2
