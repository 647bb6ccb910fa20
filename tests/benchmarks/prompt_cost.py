"""What a prompt costs: in slices as the server computes it, once it is kept, and to the sessions beside it.

    PYTHONPATH=.:tests python tests/benchmarks/prompt_cost.py [--rounds 8] [--seconds 15]

First the language model alone, of PersonaPlex's structure with a quarter of its layers and random weights.
Then a whole engine in real time, with a smaller model and codec: sessions that begin with a kept prompt and
without one, in turn, and a session that talks while others ask for prompts that were never computed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import trio
from structlog.testing import capture_logs
from support.actors.fakes import Client, MemoryTransport, serve_client
from support.personas import write_persona_folder

from actors.engine import Engine, Loaders
from actors.sessions.prompting import SliceSize
from pipeline.audio.framing import payload_of
from pipeline.audio.noise import noise_frames
from pipeline.config import parse_settings
from pipeline.models.checkpoint.formats import PERSONAPLEX
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.checkpoint.resolve import open_config
from pipeline.models.lm import LmModel
from pipeline.percentiles import percentiles
from pipeline.protocol import outgoing
from pipeline.protocol.metadata import Bye, Configure, Ready
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.stages.stepper import StepperStage
from pipeline.stages.text import TokenIds, UtteranceRules
from pipeline.units import FRAME_MS
from pipeline.values import GREEDY, Persona, Prompt, Voice

SIZES = {
    "dim": 768,
    "num_heads": 12,
    "num_layers": 8,
    "context": 1000,
    "text_card": 4000,
    "depformer_dim": 384,
    "depformer_num_heads": 6,
    "depformer_num_layers": 4,
    "depformer_dim_feedforward": 1584,
}
SMALL_SIZES = {  # which two cores compute in time
    **SIZES,
    "dim": 256,
    "num_heads": 4,
    "num_layers": 4,
    "depformer_dim": 128,
    "depformer_num_heads": 2,
    "depformer_num_layers": 2,
    "depformer_dim_feedforward": 528,
}
VOICE_FRAMES, ROLE_TOKENS = 60, 70
POSITIONS = VOICE_FRAMES + ROLE_TOKENS + 12
LANES = 2
FRAME_S = FRAME_MS / 1000


def prompt_of(number: int) -> Prompt:
    """A voice and a role of usual length, different for each number."""
    rng = np.random.default_rng(number)
    voice = Voice(codes=rng.integers(0, 2048, (VOICE_FRAMES, 8)).astype(np.int32))
    return Prompt(str(number), voice, tuple(rng.integers(4, 4000, ROLE_TOKENS).tolist()))


def new_stage(sizes: Mapping[str, int]) -> StepperStage:
    model = LmModel(parse_lm_config({**PERSONAPLEX, **sizes}))
    return StepperStage(model, LANES, TokenIds(), UtteranceRules(frozenset({0, 3}), 13, 750))


def cost_of(stage: StepperStage, size: SliceSize, number: int) -> tuple[float, list[float], float]:
    """Seconds for a prompt's frames as steps, for each slice of the prompt, and to begin with it again."""
    prompt = prompt_of(number)
    stage.open(0, GREEDY)
    began_s = time.perf_counter()
    for frame in np.random.default_rng(number).integers(0, 2048, (POSITIONS, 8)).astype(np.int32):
        stage.step([0], frame[None])
    stepping_s = time.perf_counter() - began_s
    stage.open(0, GREEDY)
    complete, slices_s = False, []
    while not complete:
        began_s = time.perf_counter()
        complete = stage.advance_prompt(0, prompt, size.positions)
        slices_s.append(time.perf_counter() - began_s)
        if not complete:
            size.record(slices_s[-1])
    stage.begin(0, prompt)
    stage.open(0, GREEDY)
    began_s = time.perf_counter()
    stage.begin(0, prompt)
    return stepping_s, slices_s, time.perf_counter() - began_s


def measure_cost(rounds: int) -> None:
    """Print the figures of the language model alone."""
    stage, size = new_stage(SIZES), SliceSize()
    cost_of(stage, size, rounds)  # as the engine does before it admits anybody
    found = [cost_of(stage, size, number) for number in range(rounds)]
    ratios = sorted(sum(slices_s) / steps_s for steps_s, slices_s, _ in found)
    print(
        f"prompting / stepping frame by frame: {statistics.median(ratios):.3f} "
        f"({ratios[0]:.3f} to {ratios[-1]:.3f}, {rounds} prompts of {POSITIONS} positions)"
    )
    print(f"a step: {1000 * statistics.median(f[0] for f in found) / POSITIONS:.1f} ms")
    print(f"the longest slice: {1000 * max(max(f[1]) for f in found):.1f} ms")
    print(f"to begin with a kept prompt: {1000 * statistics.median(f[2] for f in found):.1f} ms")


class NumberedPersonas:
    """The role "7" is prompt 7."""

    async def build(self, persona: Persona) -> Prompt | None:
        return None if persona.role is None else prompt_of(int(persona.role))


@contextmanager
def codec() -> Iterator[ModelStages]:
    """The stages of a small checkpoint, of which only the codec is used."""
    with tempfile.TemporaryDirectory() as folder:
        write_persona_folder(Path(folder), settings={"lanes": {"max": LANES}})
        yield open_stages(open_config(Path(folder), (), check=open_stages))


class Session(Client):
    """A client in real time; `latencies_s` from each frame sent to the sound that answers it."""

    def __init__(self) -> None:
        super().__init__(MemoryTransport(buffer=1000))
        self.sent_s: list[float] = []
        self.heard_s: list[float] = []

    async def converse(self, engine: Engine, frames: np.ndarray, change: Configure | None = None) -> None:
        """From admission to bye; `began_s`, `ready_s` are when it came and when it could talk."""
        self.began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_client, engine, self)
            nursery.start_soon(self.listen)
            await self.ready()
            if change is not None:
                await self.send(outgoing.metadata(change))
                await self.until(lambda c: Ready(None, change.role) in c.metadata)
            self.ready_s = trio.current_time()
            nursery.start_soon(self._note_answers, len(frames))
            for index, frame in enumerate(frames):
                self.sent_s.append(trio.current_time())
                await self.send(outgoing.audio(payload_of(frame), float(index)))
                await trio.sleep_until(self.ready_s + (index + 1) * FRAME_S)
            await trio.sleep(2 * FRAME_S)
            await self.send(outgoing.metadata(Bye()))
            await self.until(lambda c: c.over)

    async def _note_answers(self, frames: int) -> None:
        for count in range(1, frames):
            try:
                await self.until(lambda c, n=count: len(c.audio) >= n)
            except AssertionError:
                return  # the end
            self.heard_s.append(trio.current_time())

    @property
    def latencies_s(self) -> list[float]:
        """Of each frame that was answered, by the frame number that the answer carries."""
        answered = [int(event.timestamp_ms) for event in self.audio[: len(self.heard_s)]]
        return [heard_s - self.sent_s[index] for index, heard_s in zip(answered, self.heard_s, strict=True)]


async def ask_for_new_prompts(engine: Engine, first: int) -> None:
    """One session after another that asks for a prompt which was never computed, until cancelled."""
    number = first
    while True:
        await Session().converse(engine, noise_frames(1), Configure(role=str(number)))
        number += 1


def figures(name: str, times_s: list[float]) -> str:
    p50_ms, p99_ms = (1000 * each for each in percentiles(times_s, 50, 99))
    return f"{name}: p50 {p50_ms:.1f}, p99 {p99_ms:.1f}, max {1000 * max(times_s):.1f} ms ({len(times_s)})"


async def measure_engine(stages: ModelStages, starts: int, seconds: float) -> None:
    """Print the figures of sessions in a whole engine."""
    settings = parse_settings({"lanes": {"admit": LANES}, "limits": {"resume_grace_ms": 0}})
    engine = Engine(
        settings,
        Loaders(stages.load_encoder, partial(new_stage, SMALL_SIZES), stages.load_decoder),
        stages.card,
        lanes=LANES,
        personas=NumberedPersonas(),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await engine.ready.wait()
        await Session().converse(engine, noise_frames(4), Configure(role="1"))  # computes it
        found: dict[str, list[tuple[float, float]]] = {"without a prompt": [], "with a kept prompt": []}
        for _ in range(starts):
            for name, change in (
                ("without a prompt", Configure(seed=1)),
                ("with a kept prompt", Configure(role="1")),
            ):
                session = Session()
                await session.converse(engine, noise_frames(4), change)
                ready_s = session.ready_s - session.began_s
                found[name].append((ready_s, session.heard_s[0] - session.began_s))
        for name, pairs in found.items():
            print(figures(f"ready, {name}", [ready_s for ready_s, _ in pairs]))
            print(figures(f"first sound, {name}", [first_s for _, first_s in pairs]))
        without, kept = (statistics.median(ready_s for ready_s, _ in pairs) for pairs in found.values())
        delay_ms = 1000 * (kept - without)
        print(f"a kept prompt delays the start by {delay_ms:.1f} ms; a frame is {FRAME_MS} ms")
        frames = noise_frames(round(seconds / FRAME_S))
        for name, prompts in (("alone", False), ("while prompts are computed", True)):
            talker = Session()
            async with trio.open_nursery() as beside:
                if prompts:
                    beside.start_soon(ask_for_new_prompts, engine, 1000)
                await talker.converse(engine, frames)
                beside.cancel_scope.cancel()
            print(figures(f"latency, {name}", talker.latencies_s))
        nursery.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8, help="prompts, and starts of sessions")
    parser.add_argument("--seconds", type=float, default=15, help="of each conversation")
    options = parser.parse_args()
    measure_cost(options.rounds)
    with codec() as stages, capture_logs():
        trio.run(measure_engine, stages, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
