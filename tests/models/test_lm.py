"""The language model keeps its sessions apart, and stepping it is reading the whole."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.lm import NO_TOKEN, LmModel, delayed, undelayed
from pipeline.models.sampling import SamplingBatch
from pipeline.values import GREEDY, SamplingParams

FOLDER = Path(__file__).parent.parent / "data" / "lm_golden_moshi"
ROWS = 5  # four lanes and the scratch row
SCRATCH = 4
SETTINGS = (
    GREEDY,
    SamplingParams(seed=1),
    SamplingParams(seed=2, temperature=1.2, top_k=0, text_top_k=3, padding_bias=1.5),
    SamplingParams(seed=3, temperature=0.0, text_temperature=1.5, repetition_penalty=1.7),
)


@pytest.fixture(scope="module")
def model() -> LmModel:
    model = LmModel(parse_lm_config(json.loads((FOLDER / "config.json").read_text())))
    model.load_weights(FOLDER / "model.safetensors")
    return model


class Sessions:
    """Sessions in lanes; each feeds back what it said, beside a random user of its own."""

    def __init__(self, model: LmModel) -> None:
        self.model = model
        self.state = model.state(ROWS)
        self.said: dict[int, list[np.ndarray]] = {}
        self.settings: dict[int, SamplingParams] = {}
        self.lane: dict[int, int] = {}

    def open(self, session: int, lane: int) -> None:
        self.state = self.model.reset(self.state, lane)
        self.said[session], self.lane[session] = [], lane
        self.settings[session] = SETTINGS[session % 4]

    def step(self, sessions: list[int], width: int) -> None:
        c = self.model.config
        lanes = np.full(width, SCRATCH, np.int32)
        lanes[: len(sessions)] = [self.lane[s] for s in sessions]
        tokens = np.zeros((width, 1 + c.n_q), np.int32)
        for row, session in enumerate(sessions):
            said = self.said[session]
            tokens[row, : 1 + c.dep_q] = said[-1] if said else c.card
            tokens[row, 1 + c.dep_q :] = np.random.default_rng([session, len(said)]).integers(0, c.card, 4)
        batch = SamplingBatch.of(
            [self.settings[s] for s in sessions],
            [len(self.said[s]) for s in sessions],
            [[int(said[0]) for said in self.said[s][-9:]] for s in sessions],
            c.dep_q,
            width,
        )
        text, audio, self.state = self.model.step(
            tokens[:, :1], tokens[:, 1:, None], self.state, lanes, batch
        )
        drawn = np.concatenate([np.array(text)[:, None], np.array(audio)], axis=1)
        for row, session in enumerate(sessions):
            self.said[session].append(drawn[row])

    def row(self, lane: int) -> list[np.ndarray]:
        return [np.array(ring[lane]) for ring in (*self.state.keys, *self.state.values)]


schedules = st.lists(
    st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=4, unique=True), min_size=4, max_size=18
)


@settings(deadline=None, max_examples=12)
@given(schedule=schedules, lanes=st.permutations([0, 1, 2, 3]))
def test_a_session_says_the_same_alone_or_beside_others(
    model: LmModel, schedule: list[list[int]], lanes: list[int]
) -> None:
    """At one width, tokens are equal in any lane and company, greedy or seeded, also across the wrap."""
    schedule = schedule * 2
    together = Sessions(model)
    for session in range(4):
        together.open(session, lanes[session])
    for sessions in schedule:
        together.step(sessions, width=4)
    for session in range(4):
        alone = Sessions(model)
        alone.open(session, 0)
        for sessions in schedule:
            if session in sessions:
                alone.step([session], width=4)
        np.testing.assert_array_equal(alone.said[session], together.said[session])
        for mine, shared in zip(alone.row(0), together.row(lanes[session]), strict=True):
            np.testing.assert_array_equal(mine, shared)


def test_rows_not_named_keep_their_state_bit_for_bit(model: LmModel) -> None:
    """A step of some lanes leaves every other lane's rings and position as they were."""
    sessions = Sessions(model)
    for session in range(4):
        sessions.open(session, session)
    for _ in range(15):
        sessions.step([0, 1, 2, 3], width=4)
    before = [sessions.row(lane) for lane in range(4)]
    positions = sessions.state.offsets.copy()
    sessions.step([2], width=2)
    for lane in (0, 1, 3):
        for old, new in zip(before[lane], sessions.row(lane), strict=True):
            np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(sessions.state.offsets[:4] - positions[:4], [0, 0, 1, 0])


def test_a_lane_used_before_is_as_good_as_new(model: LmModel) -> None:
    """After a reset, nothing of the lane's last session is heard, and its neighbour hears no reset."""
    used, fresh = Sessions(model), Sessions(model)
    used.open(0, 2)
    used.open(3, 1)
    for _ in range(17):
        used.step([0, 3], width=2)
    used.open(1, 2)
    fresh.open(1, 2)
    fresh.open(3, 1)
    for _ in range(17):
        fresh.step([3], width=2)
    for _ in range(20):
        used.step([1, 3], width=2)
        fresh.step([1, 3], width=2)
    np.testing.assert_array_equal(used.said[1], fresh.said[1])
    np.testing.assert_array_equal(used.said[3], fresh.said[3])


def test_the_width_of_the_batch_changes_no_greedy_token(model: LmModel) -> None:
    """Widths 1, 2 and 4 say the same, and their rings agree to 1e-5."""
    by_width = {}
    for width in (1, 2, 4):
        sessions = Sessions(model)
        sessions.open(0, 3)
        for _ in range(30):
            sessions.step([0], width)
        by_width[width] = sessions
    for width in (2, 4):
        np.testing.assert_array_equal(by_width[1].said[0], by_width[width].said[0])
        for one, other in zip(by_width[1].row(3), by_width[width].row(3), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("name", ["moshi", "variant"])
def test_the_whole_expects_what_the_steps_said(name: str) -> None:
    """Teacher-forced with the official trace, every likeliest token is the one that was said."""
    folder = FOLDER.parent / f"lm_golden_{name}"
    config = parse_lm_config(json.loads((folder / "config.json").read_text()))
    model = LmModel(config)
    model.load_weights(folder / "model.safetensors")
    golden = np.load(folder / "trace.npz")
    frames = len(golden["out"]) - 1
    # A step's own tokens stand one position later than what it heard, the user's do not.
    columns = [
        golden["text"][:frames, None],
        golden["out"][:frames, 1:],
        golden["user"][1 : 1 + frames],
    ]
    codes = np.concatenate(columns, axis=1).T[None].astype(np.int32)
    predicted = model.logits(codes)
    text, audio = np.array(predicted.text.argmax(axis=-1)), np.array(predicted.audio.argmax(axis=-1))
    np.testing.assert_array_equal(text, codes[:, :1])
    said = predicted.audio_mask
    assert said.mean() > 0.9
    np.testing.assert_array_equal(audio[said], codes[:, 1 : 1 + config.dep_q][said])


@settings(deadline=None, max_examples=8)
@given(frame=st.integers(0, 12), codebook=st.integers(0, 8))
def test_logits_hear_nothing_from_the_future(model: LmModel, frame: int, codebook: int) -> None:
    """Changing one code changes no prediction of an earlier frame of any codebook that lags less."""
    c = model.config
    codes = np.random.default_rng(0).integers(0, c.card, (1, 1 + c.n_q, 13)).astype(np.int32)
    changed = codes.copy()
    changed[0, codebook, frame] = (codes[0, codebook, frame] + 1) % c.card
    one, two = model.logits(codes), model.logits(changed)
    heard_from = frame + c.delays[codebook]  # the step that is to say it, or that comes before it is heard
    np.testing.assert_array_equal(
        np.array(one.text)[:, :, : heard_from + 1], np.array(two.text)[:, :, : heard_from + 1]
    )
    for q in range(c.dep_q):
        safe = max(heard_from - c.delays[1 + q], 0)  # of codebook q, what is said in an earlier step
        np.testing.assert_array_equal(np.array(one.audio)[:, q, :safe], np.array(two.audio)[:, q, :safe])


def test_no_token_is_no_input_and_no_prediction(model: LmModel) -> None:
    """−1 adds nothing to what is heard, exactly as a zero embedding, and is masked out."""
    c = model.config
    codes = np.random.default_rng(0).integers(0, c.card, (1, 1 + c.n_q, 6)).astype(np.int32)
    codes[0, 2, 3] = codes[0, 0, 4] = NO_TOKEN
    predicted = model.logits(codes)
    assert not predicted.audio_mask[0, 1, 3]
    assert not predicted.text_mask[0, 0, 4]
    assert predicted.audio_mask[0, 0].all()
    np.testing.assert_array_equal(np.array(model.emb[0](mx.array([[NO_TOKEN]]))), 0)
    assert np.abs(np.array(model.emb[0](mx.array([[0]])))).max() > 0


@given(
    delays=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    frames=st.integers(1, 7),
    seed=st.integers(0, 9),
)
@settings(deadline=None)
def test_undelay_undoes_delay(delays: list[int], frames: int, seed: int) -> None:
    """Delayed by one initial step and its delay, then moved back: the codes, or NaN where they fell off."""
    codes = np.random.default_rng(seed).integers(0, 9, (2, len(delays), frames)).astype(np.int32)
    there = delayed(codes, tuple(delays), np.full(len(delays), -7))
    assert (there[:, :, 0] == -7).all()
    back, known = undelayed(mx.array(there[:, :, 1:, None].astype(np.float32)), tuple(delays))
    lines = np.array(back)[..., 0]
    np.testing.assert_array_equal(lines[known], codes[known])
    assert np.isnan(lines[~known]).all()
    np.testing.assert_array_equal(
        known.sum(axis=2), np.tile([max(frames - delay, 0) for delay in delays], (2, 1))
    )
