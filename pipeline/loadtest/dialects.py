"""What a dialect costs: sessions of each, one dialect after the other, on one server in the same run.

The clients send real time and read everything. From outside come the processor time of the server, and of
its event loop, which is the thread that reads, decodes, encodes and writes; from its log comes the latency
that it added to the models, of each session.
"""

import json
from collections.abc import Sequence
from statistics import median
from typing import Any, Final

import psutil
import trio
from trio_websocket import ConnectionClosed

from pipeline.audio.noise import noise_frames
from pipeline.client.scripts import ClientScript, scripts
from pipeline.loadtest.client import open_socket
from pipeline.loadtest.monitor import error_lines
from pipeline.loadtest.server_process import ServerProcess
from pipeline.units import FRAME_MS

FRAMES: Final = 125  # 10 s, then from the beginning
SETTLE_S: Final = 1.0  # for what a session leaves, before it is measured
WARM_UP_S: Final = 2.0
FRAME_S: Final = FRAME_MS / 1000


class ScriptedClient:
    """One client of a script, in real time."""

    def __init__(self, script: ClientScript) -> None:
        self.script = script
        self.sounds = 0
        self.began = trio.Event()

    async def run(self, port: int, seconds: float) -> None:
        """Talk for so long, once the server lets the audio begin."""
        async with open_socket(port, self.script.path) as (ws, _), trio.open_nursery() as nursery:

            async def receive() -> None:
                try:
                    while True:
                        message = await ws.get_message()
                        self.sounds += self.script.is_sound(message)
                        if self.script.begins(message):
                            self.began.set()
                except ConnectionClosed:
                    nursery.cancel_scope.cancel()

            for message in self.script.opening:
                await ws.send_message(message)
            nursery.start_soon(receive)
            await self.began.wait()
            began_s, frames = trio.current_time(), self.script.frames
            for index in range(round(seconds / FRAME_S)):
                await trio.sleep_until(began_s + FRAME_S * (index + 1))
                await ws.send_message(frames[index % len(frames)])
            await trio.sleep(5 * FRAME_S)
            for message in self.script.ending:
                await ws.send_message(message)
            nursery.cancel_scope.deadline = trio.current_time() + SETTLE_S
            if not self.script.ending:
                nursery.cancel_scope.cancel()


async def measure_dialects(
    server: ServerProcess, sessions: int, seconds: float, rounds: int
) -> dict[str, Any]:
    """So many sessions of each dialect for so long, in turn, in several rounds."""
    every = scripts(noise_frames(FRAMES))
    measured: dict[str, list[dict[str, float]]] = {script.dialect: [] for script in every}
    for script in every:
        await _talk(server, script, sessions, WARM_UP_S)
    for turn in range(rounds):
        for script in every if turn % 2 == 0 else reversed(every):
            measured[script.dialect].append(await _measure(server, script, sessions, seconds))
    rows = [{"dialect": name, **_median(rows)} for name, rows in measured.items()]
    return {
        "sessions": sessions,
        "dialects": _beside_packets(rows),
        "violations": error_lines(server.logged()),
    }


async def _measure(
    server: ServerProcess, script: ClientScript, sessions: int, seconds: float
) -> dict[str, float]:
    logged = len(server.logged())
    process_s, loop_s = _processor_s(server.pid)
    sounds = await _talk(server, script, sessions, seconds)
    process_end_s, loop_end_s = _processor_s(server.pid)
    ended = [entry for entry in _entries(server.logged()[logged:]) if entry.get("event") == "session"]
    per_second = 1000 / (sessions * seconds)
    return {
        "added_p50_ms": median(entry["added_p50_ms"] for entry in ended),
        "added_p99_ms": max(entry["added_p99_ms"] for entry in ended),
        "process_ms_per_s": per_second * (process_end_s - process_s),
        "loop_ms_per_s": per_second * (loop_end_s - loop_s),
        "sound_frames": sounds / sessions,
    }


async def _talk(server: ServerProcess, script: ClientScript, sessions: int, seconds: float) -> int:
    """Let so many clients talk at once; the frames of sound that they got."""
    clients = [ScriptedClient(script) for _ in range(sessions)]
    async with trio.open_nursery() as nursery:
        for index, client in enumerate(clients):
            nursery.start_soon(client.run, server.port, seconds)
            await trio.sleep(FRAME_S * (index % 7) / 7)  # not all in the same moment
    await trio.sleep(SETTLE_S)
    return sum(client.sounds for client in clients)


def _processor_s(pid: int) -> tuple[float, float]:
    """Processor time of the process, and of its main thread, which is the event loop."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    (main,) = (thread for thread in process.threads() if thread.id == pid)
    return times.user + times.system, main.user_time + main.system_time


def _entries(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def _median(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: round(median(row[name] for row in rows), 3) for name in rows[0]}


def _beside_packets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each dialect beside `/ws`: milliseconds more, and times its processor time."""
    packets = next(row for row in rows if row["dialect"] == "packets")
    for row in rows:
        row["added_beside_ms"] = round(row["added_p50_ms"] - packets["added_p50_ms"], 3)
        for name in ("process", "loop"):
            key = f"{name}_ms_per_s"
            row[f"{name}_ratio"] = round(row[key] / packets[key], 2) if packets[key] else None
    return rows
