"""Mimi's streaming: step ≡ whole, causality, and isolated lanes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models.golden_mimi import CODEBOOKS, FRAMES, decode, encode, golden, mimi, rows_of

DIRECTIONS = ["encode", "decode"]
SCRATCH = 4
ROWS = SCRATCH + 1


def start(direction):
    """A call, a new state, and the frames `[T, 1, …]` of one session in that direction."""
    user_pcm, codes, _ = golden()
    if direction == "encode":
        return encode, mimi().encoder_state(ROWS), user_pcm[:, None]
    return decode, mimi().decoder_state(ROWS), codes[:, None]


def session(direction, frames, lane=0):
    """The results of a session alone, frame by frame."""
    call, state, _ = start(direction)
    out = []
    for frame in frames:
        y, state = call(frame, state, [lane])
        out.append(y[0])
    return out


def assert_close(found, expected):
    """Codes are equal; samples of batches of different width may differ in the last bits."""
    if found.dtype == np.int32:
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
@settings(max_examples=12, deadline=None)
@given(cuts=st.sets(st.integers(1, FRAMES - 1)))
def test_any_grouping_of_frames_gives_the_whole(direction, cuts):
    """However many frames a call takes, their concatenation is the session frame by frame."""
    call, state, frames = start(direction)
    bounds = [0, *sorted(cuts), FRAMES]
    out = []
    for begin, end in itertools.pairwise(bounds):
        y, state = call(np.concatenate(frames[begin:end], axis=-1), state, [0])
        out.append(y)
    _, codes, agent_pcm = golden()
    expected = codes if direction == "encode" else agent_pcm
    found = np.concatenate(out, axis=-1)[0]  # [K, T] or [1, S]
    expected = np.concatenate(expected, axis=-1)
    if direction == "encode":
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("changed", [0, 5, 17])
def test_a_frame_does_not_depend_on_later_ones(direction, changed):
    """Frames before a changed one come out bit for bit the same, and the changed one does not."""
    _, _, frames = start(direction)
    frames = frames[:20]
    other = frames.copy()
    other[changed] = other[changed] * np.float32(-0.5) if direction == "encode" else (other[changed] + 7) % 32
    one, two = session(direction, frames), session(direction, other)
    for index in range(changed):
        np.testing.assert_array_equal(one[index], two[index])
    assert not np.array_equal(one[changed], two[changed])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_rows_not_named_keep_their_state_bit_for_bit(direction):
    """A call changes the rows it names, and only those."""
    call, state, frames = start(direction)
    for frame in frames[:6]:
        _, state = call(np.concatenate([frame, frame * 1]), state, [0, 3])
    before = [rows_of(state, row) for row in range(ROWS)]
    _, state = call(frames[6], state, [1])
    for row in (0, 2, 3, SCRATCH):
        for old, new in zip(before[row], rows_of(state, row), strict=True):
            np.testing.assert_array_equal(old, new)
    assert not all(np.array_equal(a, b) for a, b in zip(before[1], rows_of(state, 1), strict=True))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_state_can_be_used_twice(direction):
    """A call does not change the state it is given, which may be used again."""
    call, state, frames = start(direction)
    for frame in frames[:6]:
        _, state = call(frame, state, [0])
    one, _ = call(frames[6], state, [0])
    other, _ = call(frames[7], state, [0])
    again, _ = call(frames[6], state, [0])
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_reset_lane_equals_a_new_one(direction):
    """Nothing of the session before is left, not even of one with NaN; other lanes keep their state."""
    call, state, frames = start(direction)
    poison = frames[0] * np.float32(np.nan) if direction == "encode" else frames[0]
    for frame in [*frames[:9], poison, *frames[:2]]:
        _, state = call(np.concatenate([frame, frames[0]]), state, [2, 1])
    neighbour = rows_of(state, 1)
    state = mimi().reset(state, 2)
    for old, new in zip(neighbour, rows_of(state, 1), strict=True):
        np.testing.assert_array_equal(old, new)
    expected = session(direction, frames[10:20], lane=0)
    for frame, alone in zip(frames[10:20], expected, strict=True):
        y, state = call(frame, state, [2])
        np.testing.assert_array_equal(y[0], alone)


@st.composite
def schedules(draw):
    """Which lanes have a frame at each tick, in which order, and which lane is reset before it."""
    ticks = draw(st.integers(6, 10))
    calls = [draw(st.permutations(range(SCRATCH)))[: draw(st.integers(1, SCRATCH))] for _ in range(ticks)]
    resets = [draw(st.none() | st.integers(0, SCRATCH - 1)) for _ in range(ticks)]
    return list(zip(calls, resets, strict=True))


@pytest.mark.parametrize("direction", DIRECTIONS)
@settings(max_examples=10, deadline=None)
@given(schedule=schedules())
def test_sessions_in_one_batch_equal_each_alone(direction, schedule):
    """In any lane, new or reused, beside any others, at any width, a session has the same results."""
    call, state, frames = start(direction)
    begun = dict.fromkeys(range(SCRATCH), 0)  # sessions opened in a lane, each with frames of its own
    results = {lane: [] for lane in range(SCRATCH)}
    for named, reset in schedule:
        if reset is not None:
            state = mimi().reset(state, reset)
            begun[reset] += 1
            results[reset] = []
        width = 1 << (len(named) - 1).bit_length()
        lanes = [*named, *[SCRATCH] * (width - len(named))]
        offsets = [(5 * lane + 3 * begun[lane] + len(results[lane])) % FRAMES for lane in named]
        offsets += [0] * (width - len(named))
        y, state = call(np.concatenate([frames[i] for i in offsets]), state, lanes)
        for position, lane in enumerate(named):
            results[lane].append((offsets[position], y[position]))
    for history in results.values():
        alone = session(direction, [frames[i] for i, _ in history])
        for (_, found), expected in zip(history, alone, strict=True):
            assert_close(found, expected)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_at_one_width_a_row_is_the_same_bit_for_bit(direction):
    """Neither the lane, nor its position in the batch, nor other rows change a single bit."""
    call, first, frames = start(direction)
    second = first
    for index in range(8):
        one, first = call(np.concatenate([frames[index], frames[index + 9]]), first, [0, 1])
        two, second = call(np.concatenate([frames[-index - 1], frames[index]]), second, [2, 3])
        np.testing.assert_array_equal(one[0], two[1])


@pytest.mark.parametrize("samples", [0, 1, 1919, 1921])
def test_parts_of_frames_are_refused(samples):
    """Only whole frames are encoded."""
    with pytest.raises(ValueError, match="whole frames"):
        encode(np.zeros((1, 1, samples), np.float32), mimi().encoder_state(1), [0])


def test_silence_from_the_start_is_a_session_too():
    """A session that begins in silence gives finite sound for codes of silence."""
    codes, _ = encode(np.zeros((1, 1, 3 * 1920), np.float32), mimi().encoder_state(1), [0])
    assert codes.shape == (1, CODEBOOKS, 3)
    pcm, _ = decode(codes, mimi().decoder_state(1), [0])
    assert pcm.shape == (1, 1, 3 * 1920)
    assert np.isfinite(pcm).all()
