"""The embedded default model: exact parity with the official package, and answers to a question.

`tests/data/embedded.npz` is the official package's answer to `tests/data/question.wav`
with the same weights (`tests/goldens/embedded_goldens.py`).
"""

from pathlib import Path

import numpy as np
import pytest
import trio

from pipeline.audio.framing import Framer
from pipeline.audio.sound_file import read_speech
from pipeline.cli.offline import Trace, run_frames
from pipeline.config import read_config
from pipeline.loadtest.server_process import start_server
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.train.evaluation.trial import Question, ask
from pipeline.values import GREEDY, Pcm, SamplingParams

ROOT = Path(__file__).parent.parent
TINY = ROOT / "configs/tiny"
DATA = ROOT / "tests/data"
LANES = 3


@pytest.fixture(scope="module")
def stages() -> ModelStages:
    return open_stages(read_config(TINY, [f"lanes.max={LANES}"]))


@pytest.fixture(scope="module")
def question() -> Pcm:
    """`[T, 1920]`: "what is three plus four", and silence."""
    return Framer().push(read_speech(DATA / "question.wav"))


@pytest.fixture(scope="module")
def alone(stages: ModelStages, question: Pcm) -> Trace:
    return run_frames(stages, question, GREEDY)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(DATA / "embedded.npz") as data:
        return dict(data)


def test_the_encoder_gives_the_official_codes(alone: Trace, golden: dict[str, np.ndarray]) -> None:
    """All codebooks of every frame."""
    np.testing.assert_array_equal(np.array(alone.user_codes), golden["user"])


def test_the_steps_give_the_official_tokens(alone: Trace, golden: dict[str, np.ndarray]) -> None:
    """Text of every step, and every frame of audio."""
    np.testing.assert_array_equal(alone.text_tokens, golden["text"])
    np.testing.assert_array_equal(np.array(alone.agent_codes), golden["out"][:, 1:])


def test_the_decoder_gives_the_official_samples(alone: Trace, golden: dict[str, np.ndarray]) -> None:
    """Every sample within 1e-4."""
    expected = golden["pcm"].reshape(-1) / 32768
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(np.concatenate(alone.agent_pcm), expected, rtol=0, atol=1e-4)


def test_it_adds(alone: Trace) -> None:
    """Asked for three plus four, in a voice and at a speed it was not trained on, it writes the answer."""
    assert " ".join("".join(alone.text).split()) == "Three plus four is seven."


def test_sessions_do_not_touch_each_other(stages: ModelStages, question: Pcm, alone: Trace) -> None:
    """The same tokens beside sessions that talk at the same time, join late and leave early."""
    encoder, stepper, decoder = stages.load_encoder(), stages.load_stepper(), stages.load_decoder()
    rng = np.random.default_rng(3)
    joins = {0: (0, len(question)), 1: (5, 40), 2: (20, 60)}  # lane: the frames in which it is there
    tokens: list[int] = []
    codes: list[np.ndarray] = []
    for index in range(len(question)):
        here = [lane for lane, (first, end) in joins.items() if first <= index < end]
        for lane in here:
            if joins[lane][0] == index:
                for stage in (encoder, stepper, decoder):
                    stage.open(lane, GREEDY if lane == 0 else SamplingParams(seed=lane))
        noise = (0.2 * rng.standard_normal((len(here) - 1, 1920))).astype(np.float32)
        steps = stepper.step(here, encoder.encode(here, np.concatenate([question[index][None], noise])))
        tokens.append(steps[0].token)
        codes += [steps[0].codes] if steps[0].codes is not None else []
        for lane in here:
            if joins[lane][1] == index + 1:
                for stage in (encoder, stepper, decoder):
                    stage.close(lane)
    assert tokens == alone.text_tokens
    np.testing.assert_array_equal(np.array(codes), np.array(alone.agent_codes))


def test_silence_gets_no_answer(stages: ModelStages) -> None:
    """There is no text in half a minute of silence."""
    trace = run_frames(stages, np.zeros((375, 1920), np.float32), GREEDY)
    assert "".join(trace.text) == ""
    assert np.abs(np.concatenate(trace.agent_pcm)).max() < 0.01


def test_a_server_answers_in_words_and_in_sound() -> None:
    """Asked twice in one session, in real time over the socket, both answers are complete."""
    question = Question(read_speech(DATA / "question.wav")[: 24_000 * 5 // 2], "Three plus four is seven.")
    with start_server(TINY, ["sampling.seed=1"]) as server:
        outcomes, report = trio.run(ask, server.socket_url, [question, question], None, 0)
        announced = [server.get("/weights")[1]["trained"], server.get("/health")[1]["model"]["trained"]]
    assert report.model is not None
    assert [report.model.trained, *announced] == [True] * 3
    for outcome in outcomes:
        assert outcome.text == question.answer
        assert np.abs(outcome.sound).max() > 0.05
