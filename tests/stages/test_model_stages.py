"""The three stages together, on a small real checkpoint: sessions are isolated."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli.offline import run_frames
from pipeline.config import read_config
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.values import GREEDY, Pcm, SamplingParams, StepResult, TextFinal

LANES = 4
FRAMES = 26  # more than four times the language model's context
SAMPLINGS = [GREEDY, SamplingParams(seed=5), SamplingParams(seed=6, top_k=3, text_top_k=2, padding_bias=-1.0)]


@pytest.fixture(scope="module")
def model_stages(checkpoint: Path) -> ModelStages:
    return open_stages(read_config(checkpoint, [f"lanes.max={LANES}"]))


def test_the_model_card_has_the_configured_greeting(checkpoint: Path) -> None:
    """Without a greeting, the card has no suggestions."""
    assert open_stages(read_config(checkpoint)).card.suggestions == ()
    greeting = 'greeting={"about": "It adds.", "suggestions": ["what is one plus one"]}'
    card = open_stages(read_config(checkpoint, [greeting])).card
    assert (card.about, card.suggestions) == ("It adds.", ("what is one plus one",))


class Session:
    """One session: its input frames and its results."""

    def __init__(self, speech: int, sampling: SamplingParams) -> None:
        generator = np.random.Generator(np.random.PCG64(speech))
        self.frames: Pcm = (0.2 * generator.standard_normal((FRAMES, 1920))).astype(np.float32)
        self.sampling = sampling
        self.sent = 0
        self.steps: list[StepResult] = []
        self.pcm: list[Pcm] = []

    def same_tokens(self, other: "Session") -> bool:
        n = min(len(self.steps), len(other.steps))
        assert n
        return all(
            a.token == b.token and np.array_equal(a.codes, b.codes)
            if a.codes is not None
            else b.codes is None
            for a, b in zip(self.steps[:n], other.steps[:n], strict=True)
        )


class Stages:
    """The stages, driven as the actors do."""

    def __init__(self, model_stages: ModelStages) -> None:
        self.stages = model_stages.load_encoder(), model_stages.load_stepper(), model_stages.load_decoder()

    def open(self, lane: int, sampling: SamplingParams) -> None:
        for stage in self.stages:
            stage.open(lane, sampling)

    def close(self, lane: int) -> None:
        for stage in self.stages:
            stage.close(lane)

    def frame(self, at: dict[int, Session]) -> None:
        """One frame for each lane's session."""
        encoder, stepper, decoder = self.stages
        lanes = list(at)
        codes = encoder.encode(lanes, np.stack([s.frames[s.sent] for s in at.values()]))
        steps = stepper.step(lanes, codes)
        for session, step in zip(at.values(), steps, strict=True):
            session.sent += 1
            session.steps.append(step)
        speaking = [
            (lane, step.codes) for lane, step in zip(lanes, steps, strict=True) if step.codes is not None
        ]
        if speaking:
            pcm = decoder.decode([lane for lane, _ in speaking], np.stack([codes for _, codes in speaking]))
            for (lane, _), frame in zip(speaking, pcm, strict=True):
                at[lane].pcm.append(frame)


@pytest.fixture(scope="module")
def stages(model_stages: ModelStages) -> Stages:
    return Stages(model_stages)


@pytest.fixture(scope="module")
def alone(stages: Stages) -> list[Session]:
    """Each kind of session, by itself."""
    sessions = [Session(speech, sampling) for speech, sampling in enumerate(SAMPLINGS)]
    for session in sessions:
        stages.open(0, session.sampling)
        for _ in range(FRAMES):
            stages.frame({0: session})
        stages.close(0)
    return sessions


def test_sessions_differ(alone: list[Session]) -> None:
    """Otherwise the isolation tests would prove nothing."""
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not alone[a].same_tokens(alone[b])
    assert len({step.token for step in alone[1].steps}) > 5


def plans() -> st.SearchStrategy[list[tuple[int, int, list[bool]]]]:
    """(lane, kind of session, in which ticks it has a frame) for every lane."""
    ticks = st.lists(st.booleans(), min_size=FRAMES, max_size=FRAMES)
    sessions = st.tuples(st.integers(0, len(SAMPLINGS) - 1), ticks)
    return st.lists(sessions, min_size=1, max_size=LANES).flatmap(
        lambda chosen: st.permutations(range(LANES)).map(
            lambda lanes: [(lane, kind, ticks) for lane, (kind, ticks) in zip(lanes, chosen, strict=False)]
        )
    )


@settings(max_examples=8, deadline=None)
@given(plans())
def test_a_session_is_the_same_alone_beside_others_and_in_any_lane_fresh_or_reused(
    stages: Stages, alone: list[Session], plan: list[tuple[int, int, list[bool]]]
) -> None:
    sessions = {lane: Session(kind, SAMPLINGS[kind]) for lane, kind, _ in plan}
    for lane, session in sessions.items():
        stages.open(lane, session.sampling)  # lanes were used by the examples before
    for tick in range(FRAMES):
        at = {lane: sessions[lane] for lane, _, ticks in plan if ticks[tick]}
        if at:
            stages.frame(at)
    for lane, kind, ticks in plan:
        stages.close(lane)
        if any(ticks):
            assert sessions[lane].same_tokens(alone[kind])
        for mine, reference in zip(sessions[lane].pcm, alone[kind].pcm, strict=False):
            np.testing.assert_allclose(mine, reference, atol=1e-5)


def test_the_first_delay_steps_complete_no_frame_and_each_later_one_does(alone: list[Session]) -> None:
    for session in alone:
        assert [step.codes is None for step in session.steps] == [True] + [False] * (FRAMES - 1)


def test_offline_gives_the_results_of_the_stages(model_stages: ModelStages, alone: list[Session]) -> None:
    trace = run_frames(model_stages, alone[1].frames, SAMPLINGS[1])
    assert trace.text_tokens == [step.token for step in alone[1].steps]
    np.testing.assert_array_equal(trace.agent_codes, [step.codes for step in alone[1].steps[1:]])
    np.testing.assert_allclose(trace.agent_pcm, alone[1].pcm, atol=1e-6)
    spoken = [t for t in trace.text_tokens if t not in (0, 3)]
    assert " ".join(trace.text).split() == [str(token) for token in spoken]


def test_a_configured_lane_samples_differently_and_keeps_its_state(
    stages: Stages, alone: list[Session]
) -> None:
    session = Session(0, GREEDY)
    stages.open(1, SamplingParams(seed=9))
    stages.stages[1].configure(1, GREEDY)  # before its first frame: as if it had begun so
    for _ in range(8):
        stages.frame({1: session})
    assert session.same_tokens(alone[0])
    stages.stages[1].configure(1, SamplingParams(temperature=3.0, text_temperature=3.0, seed=2))
    for _ in range(8):
        stages.frame({1: session})
    stages.close(1)
    assert [s.token for s in session.steps[8:]] != [s.token for s in alone[0].steps[8:16]]


def test_closing_a_lane_closes_its_utterance(stages: Stages) -> None:
    _, stepper, _ = stages.stages
    stages.open(2, SamplingParams(seed=1, padding_bias=-50.0))
    session = Session(1, GREEDY)
    for _ in range(5):
        stages.frame({2: session})
    (final,) = stepper.close(2)
    assert isinstance(final, TextFinal)
    assert final.text.split() == [str(s.token) for s in session.steps if s.token not in (0, 3)]


@pytest.fixture(autouse=True)
def _no_lane_stays_open(stages: Stages) -> Iterator[None]:
    yield
    assert not stages.stages[1]._sessions
