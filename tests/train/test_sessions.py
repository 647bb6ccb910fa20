"""Who speaks when."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import small_corpus

from pipeline.train.conversation.phrases import in_words
from pipeline.train.conversation.sessions import NO_RESULT, by_frame, compose, hesitation, results_by_frame
from pipeline.train.recordings.bank import read_shard
from pipeline.units import FRAME_SAMPLES

FRAMES = 300
SEEDS = st.integers(0, 2**32 - 1)


def shards(tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "sessions"
    if not folder.exists():
        small_corpus(folder)
    users = read_shard(folder, "train-0000").utterances
    return users, {one.text: one for one in read_shard(folder, "agent").utterances}


def speaking(session):
    """Frames in which the user is heard, and in which the agent speaks."""
    user, agent = np.zeros(2 * FRAMES, bool), np.zeros(2 * FRAMES, bool)
    for said in session.said:
        end = said.at + said.end - said.begin
        user[said.at // FRAME_SAMPLES : -(-end // FRAME_SAMPLES)] = True
    for answered in session.answered:
        agent[answered.frame : answered.frame + answered.frames] = True
    return user, agent


@settings(max_examples=60)
@given(SEEDS)
def test_the_agent_waits_and_yields(tmp_path_factory, seed):
    """It begins after some silence of the user, and goes on into his speech for half a second at most."""
    users, answers = shards(tmp_path_factory)
    session = compose(np.random.default_rng(seed), users, answers, FRAMES)
    user, agent = speaking(session)
    for answered in session.answered:
        assert answered.frame + answered.frames <= FRAMES
        assert not user[max(0, answered.frame - 3) : answered.frame].any()
    together = "".join("#" if both else " " for both in user & agent)
    assert max(map(len, together.split())) <= 7 if together.strip() else True


@settings(max_examples=60)
@given(SEEDS)
def test_words_are_written_while_they_are_said(tmp_path_factory, seed):
    """Each at the frame in which its sound begins, in order, and none that is cut off."""
    users, answers = shards(tmp_path_factory)
    session = compose(np.random.default_rng(seed), users, answers, FRAMES)
    _, agent = speaking(session)
    assert all(agent[frame] for frame, _ in session.words)
    frames = [frame for frame, _ in session.words]
    assert frames == sorted(frames)
    for answered in session.answered:
        text = [w for frame, w in session.words if 0 <= frame - answered.frame < answered.frames]
        assert answered.answer.startswith(" ".join(text))


@settings(max_examples=60)
@given(SEEDS)
def test_a_result_is_known_before_it_is_said(tmp_path_factory, seed):
    """From the first word of an answer to the frame of its result; that is what the words say."""
    users, answers = shards(tmp_path_factory)
    session = compose(np.random.default_rng(seed), users, answers, FRAMES)
    row = results_by_frame(session)
    for answered in session.answered:
        words = answered.answer.split()
        whole = answered.frames == answers[answered.answer].samples // FRAME_SAMPLES
        if "is" not in words or not whole:
            assert "is" in words or row[min(answered.frame, FRAMES - 1)] == NO_RESULT
            continue
        said = [frame for frame, _ in session.words if frame >= answered.frame][words.index("is") + 1]
        assert (row[answered.frame : said + 1] > NO_RESULT).all()
        assert row[said + 1] == NO_RESULT
        assert in_words(int(row[said])) == " ".join(words[words.index("is") + 1 :])


@settings(max_examples=60)
@given(SEEDS)
def test_a_session_is_decided_by_its_seed(tmp_path_factory, seed):
    """Encoded files can be made again."""
    users, answers = shards(tmp_path_factory)
    one, other = (compose(np.random.default_rng(seed), users, answers, FRAMES) for _ in range(2))
    assert one == other


def test_nobody_hesitates_after_a_whole_question(tmp_path_factory):
    """A pause is put only where what was said so far asks nothing."""
    users, _ = shards(tmp_path_factory)
    for one in users:
        before = hesitation(one)
        if before is not None:
            said = one.text.split()[:before]
            assert not {"plus", "minus", "take", "and", "from"} & set(said[1:])


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), max_size=12))
def test_no_word_is_lost_to_another(events):
    """Two words of one frame stand in two, in their order, as long as there is room."""
    numbers = {"a": 1, "b": 2, "c": 3}
    row = by_frame(events, numbers, 60, other=9)
    assert [n for n in row if n] == [numbers[word] for _, word in sorted(events)]
    assert by_frame([(5, "stranger")], numbers, 10, other=9)[5] == 9
