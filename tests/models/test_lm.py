"""Sessions of the language model are isolated, and its steps equal the whole sequence."""

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
    """Sessions in lanes; each feeds back its own tokens, beside those of a random user."""

    def __init__(self, model: LmModel) -> None:
        self.model = model
        self.state = model.state(ROWS)
        self.tokens: dict[int, list[np.ndarray]] = {}
        self.settings: dict[int, SamplingParams] = {}
        self.lane: dict[int, int] = {}

    def open(self, session: int, lane: int) -> None:
        self.state = self.model.reset(self.state, lane)
        self.tokens[session], self.lane[session] = [], lane
        self.settings[session] = SETTINGS[session % 4]

    def step(self, sessions: list[int], width: int) -> None:
        c = self.model.config
        lanes = np.full(width, SCRATCH, np.int32)
        lanes[: len(sessions)] = [self.lane[s] for s in sessions]
        tokens = np.zeros((width, 1 + c.n_q), np.int32)
        for row, session in enumerate(sessions):
            history = self.tokens[session]
            tokens[row, : 1 + c.dep_q] = history[-1] if history else c.card
            tokens[row, 1 + c.dep_q :] = np.random.default_rng([session, len(history)]).integers(0, c.card, 4)
        batch = SamplingBatch.of(
            [self.settings[s] for s in sessions],
            [len(self.tokens[s]) for s in sessions],
            [[int(step[0]) for step in self.tokens[s][-9:]] for s in sessions],
            c.dep_q,
            width,
        )
        text, audio, self.state = self.model.step(
            tokens[:, :1], tokens[:, 1:, None], self.state, lanes, batch
        )
        drawn = np.concatenate([np.array(text)[:, None], np.array(audio)], axis=1)
        for row, session in enumerate(sessions):
            self.tokens[session].append(drawn[row])

    def row(self, lane: int) -> list[np.ndarray]:
        return [np.array(ring[lane]) for ring in (*self.state.keys, *self.state.values)]


schedules = st.lists(
    st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=4, unique=True), min_size=4, max_size=18
)


@settings(deadline=None, max_examples=12)
@given(schedule=schedules, lanes=st.permutations([0, 1, 2, 3]))
def test_a_session_has_the_same_tokens_alone_or_beside_others(
    model: LmModel, schedule: list[list[int]], lanes: list[int]
) -> None:
    """At one width, tokens are equal in any lane, beside any sessions, greedy or seeded, across the wrap."""
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
        np.testing.assert_array_equal(alone.tokens[session], together.tokens[session])
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


def test_a_reset_lane_equals_a_new_one(model: LmModel) -> None:
    """After a reset, nothing of the lane's last session has an effect, and other lanes are unchanged."""
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
    np.testing.assert_array_equal(used.tokens[1], fresh.tokens[1])
    np.testing.assert_array_equal(used.tokens[3], fresh.tokens[3])


def test_the_width_of_the_batch_changes_no_greedy_token(model: LmModel) -> None:
    """Widths 1, 2 and 4 give the same tokens, and their rings agree to 1e-5."""
    by_width = {}
    for width in (1, 2, 4):
        sessions = Sessions(model)
        sessions.open(0, 3)
        for _ in range(30):
            sessions.step([0], width)
        by_width[width] = sessions
    for width in (2, 4):
        np.testing.assert_array_equal(by_width[1].tokens[0], by_width[width].tokens[0])
        for one, other in zip(by_width[1].row(3), by_width[width].row(3), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("name", ["moshi", "variant"])
def test_the_whole_sequence_predicts_the_tokens_of_the_steps(name: str) -> None:
    """Teacher-forced with the official trace, every likeliest token is the one in the trace."""
    folder = FOLDER.parent / f"lm_golden_{name}"
    config = parse_lm_config(json.loads((folder / "config.json").read_text()))
    model = LmModel(config)
    model.load_weights(folder / "model.safetensors")
    golden = np.load(folder / "trace.npz")
    frames = len(golden["out"]) - 1
    # A step's own tokens are one position later than its input; the user's are not.
    columns = [
        golden["text"][:frames, None],
        golden["out"][:frames, 1:],
        golden["user"][1 : 1 + frames],
    ]
    codes = np.concatenate(columns, axis=1).T[None].astype(np.int32)
    predicted = model.logits(codes)
    text, audio = np.array(predicted.text.argmax(axis=-1)), np.array(predicted.audio.argmax(axis=-1))
    np.testing.assert_array_equal(text, codes[:, :1])
    counted = predicted.audio_mask
    assert counted.mean() > 0.9
    np.testing.assert_array_equal(audio[counted], codes[:, 1 : 1 + config.dep_q][counted])


@settings(deadline=None, max_examples=8)
@given(frame=st.integers(0, 12), codebook=st.integers(0, 8))
def test_logits_do_not_depend_on_the_future(model: LmModel, frame: int, codebook: int) -> None:
    """Changing one code changes no prediction of an earlier frame of a codebook with a smaller delay."""
    c = model.config
    codes = np.random.default_rng(0).integers(0, c.card, (1, 1 + c.n_q, 13)).astype(np.int32)
    changed = codes.copy()
    changed[0, codebook, frame] = (codes[0, codebook, frame] + 1) % c.card
    one, two = model.logits(codes), model.logits(changed)
    first_step = frame + c.delays[codebook]  # the step that predicts it, or that precedes it as input
    np.testing.assert_array_equal(
        np.array(one.text)[:, :, : first_step + 1], np.array(two.text)[:, :, : first_step + 1]
    )
    for q in range(c.dep_q):
        safe = max(first_step - c.delays[1 + q], 0)  # of codebook q, predictions of earlier steps
        np.testing.assert_array_equal(np.array(one.audio)[:, q, :safe], np.array(two.audio)[:, q, :safe])


def test_no_token_is_no_input_and_no_prediction(model: LmModel) -> None:
    """−1 adds nothing to the input, exactly as a zero embedding, and is masked out."""
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
    """Delayed by one initial step and its delay, then shifted back: the codes, or NaN beyond the end."""
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
