"""Who speaks when."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.train.recipes import small_corpus

from pipeline.train.conversation.phrases import complete_phrases, in_words
from pipeline.train.conversation.sessions import (
    NO_RESULT,
    Questions,
    by_frame,
    compose,
    pauses,
    results_by_frame,
)
from pipeline.train.conversation.wording import ANSWERS
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


def composed(users, answers, seed):
    return compose(np.random.default_rng(seed), Questions(users), answers, FRAMES)


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
    """It begins after some silence of the user, and goes on into another question for a second at most."""
    users, answers = shards(tmp_path_factory)
    session = composed(users, answers, seed)
    user, agent = speaking(session)
    for answered in session.answered:
        assert answered.frame + answered.frames <= FRAMES
        assert not user[max(0, answered.frame - 3) : answered.frame].any()
    whole = {said.utterance for said in session.said}
    if not {users[index].kind for index in whole} & {"stop", "backchannel"}:
        together = "".join("#" if both else " " for both in user & agent)
        assert max(map(len, together.split())) <= 12 if together.strip() else True


@settings(max_examples=120)
@given(SEEDS)
def test_okay_ends_no_answer_and_stop_does(tmp_path_factory, seed):
    """A back-channel during an answer leaves it whole; after "stop" it lasts for some frames at most."""
    users, answers = shards(tmp_path_factory)
    session = composed(users, answers, seed)
    for said in session.said:
        kind, frame = users[said.utterance].kind, said.at // FRAME_SAMPLES
        during = [one for one in session.answered if one.frame <= frame < one.frame + one.frames]
        for answered in during:
            length = answers[answered.answer].samples // FRAME_SAMPLES
            ends = answered.frame + answered.frames
            if kind == "backchannel":
                assert answered.frames == length or ends == FRAMES
            if kind == "stop":
                stopped = (said.at + said.end - said.begin) // FRAME_SAMPLES
                assert ends <= stopped + 5


@settings(max_examples=120)
@given(SEEDS)
def test_what_is_not_asked_is_not_answered(tmp_path_factory, seed):
    """Every answer belongs to a question that was said to its end just before it."""
    users, answers = shards(tmp_path_factory)
    session = composed(users, answers, seed)
    whole = [
        (said.at + said.end - said.begin, users[said.utterance])
        for said in session.said
        if said.end == users[said.utterance].samples
    ]
    for answered in session.answered:
        end, asked = max(
            (one for one in whole if one[0] <= answered.frame * FRAME_SAMPLES), key=lambda o: o[0]
        )
        assert answered.frame - end // FRAME_SAMPLES <= 10
        assert asked.kind not in ("stop", "backchannel")
        assert asked.answer in (answered.answer, "")


def test_that_again_is_the_answer_before(tmp_path_factory):
    """ "Repeat that" is answered with the last answer that was said to its end, and at first refused."""
    users, answers = shards(tmp_path_factory)
    asked = [one for one in users if one.kind in ("sum", "repeat")]
    again = 0
    for seed in range(60):
        session = composed(asked, answers, seed)
        before = ANSWERS["unknown"]
        for answered in session.answered:
            end = answered.frame * FRAME_SAMPLES
            last = max((s for s in session.said if s.at + s.end - s.begin <= end), key=lambda s: s.at)
            if asked[last.utterance].kind == "repeat":
                again += 1
                assert answered.answer == before
            if answered.frames == answers[answered.answer].samples // FRAME_SAMPLES:
                before = answered.answer
    assert again > 10


@settings(max_examples=60)
@given(SEEDS)
def test_words_are_written_while_they_are_said(tmp_path_factory, seed):
    """Each at the frame in which its sound begins, in order, and none that is cut off."""
    users, answers = shards(tmp_path_factory)
    session = composed(users, answers, seed)
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
    session = composed(users, answers, seed)
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
        assert in_words(int(row[said])) + "." == " ".join(words[words.index("is") + 1 :])


@settings(max_examples=60)
@given(SEEDS)
def test_a_session_is_decided_by_its_seed(tmp_path_factory, seed):
    """Encoded files can be made again."""
    users, answers = shards(tmp_path_factory)
    one, other = (composed(users, answers, seed) for _ in range(2))
    assert one == other


def test_nobody_pauses_after_a_whole_question(tmp_path_factory):
    """A pause is put only where what was said so far asks nothing: before the second operand is over."""
    users, _ = shards(tmp_path_factory)
    numbers = {in_words(number) for number in range(21)}
    found = 0
    for one in users:
        for before in pauses(one):
            said = one.text.split()[:before]
            found += 1
            assert len([word for word in said if word in numbers]) < 2
            assert " ".join(said) not in complete_phrases()
    assert found


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), max_size=12))
def test_no_word_is_lost_to_another(events):
    """Two words of one frame stand in two, in their order, as long as there is room."""
    numbers = {"a": 1, "b": 2, "c": 3}
    row = by_frame(events, numbers, 60, other=9)
    assert [n for n in row if n] == [numbers[word] for _, word in sorted(events)]
    assert by_frame([(5, "stranger")], numbers, 10, other=9)[5] == 9
