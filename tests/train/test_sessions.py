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
    slip,
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
    """Frames in which the user speaks, and in which the agent does."""
    user, agent = np.zeros(2 * FRAMES, bool), np.zeros(2 * FRAMES, bool)
    for segment in session.user_segments:
        end = segment.at + segment.end - segment.begin
        user[segment.at // FRAME_SAMPLES : -(-end // FRAME_SAMPLES)] = True
    for answered in session.agent_answers:
        agent[answered.frame : answered.frame + answered.frames] = True
    return user, agent


@settings(max_examples=60)
@given(SEEDS)
def test_the_agent_waits_and_yields(tmp_path_factory, seed):
    """It begins after some silence of the user, and goes on into another question for a second at most."""
    users, answers = shards(tmp_path_factory)
    session = composed(users, answers, seed)
    user, agent = speaking(session)
    for answered in session.agent_answers:
        assert answered.frame + answered.frames <= FRAMES
        assert not user[max(0, answered.frame - 3) : answered.frame].any()
    whole = {segment.utterance for segment in session.user_segments}
    if not {users[index].kind for index in whole} & {"stop", "backchannel"}:
        together = "".join("#" if both else " " for both in user & agent)
        assert max(map(len, together.split())) <= 12 if together.strip() else True


@settings(max_examples=120)
@given(SEEDS)
def test_others_talk_apart_from_the_conversation(tmp_path_factory, seed):
    """Where they may talk, neither the user nor the agent speaks, nor a moment before or after."""
    users, answers = shards(tmp_path_factory)
    session = composed(users, answers, seed)
    user, agent = speaking(session)
    for stretch in session.overheard:
        begin, end = (sample // FRAME_SAMPLES for sample in stretch)
        assert not (user | agent)[max(0, begin - 2) if begin else 0 : end + 2].any()


def test_others_talk_between_questions_too(tmp_path_factory):
    """The agent has answered before they talk, and answers after it: silence does not follow from silence."""
    users, answers = shards(tmp_path_factory)
    between = 0
    for seed in range(40):
        session = composed(users, answers, seed)
        spoken = [answered.frame * FRAME_SAMPLES for answered in session.agent_answers]
        for begin, end in session.overheard:
            between += any(at < begin for at in spoken) and any(at >= end for at in spoken)
    assert between > 10


@settings(max_examples=120)
@given(SEEDS)
def test_a_slip_ends_before_others_do(tmp_path_factory, seed):
    """The agent's answer to what others say is noted, and is over before the conversation goes on."""
    users, answers = shards(tmp_path_factory)
    session = composed(users, answers, seed)
    meant = len(session.agent_answers)
    rng = np.random.default_rng(seed)
    for begin, end in session.overheard:
        slip(rng, session, [((begin + end) // 2, users[0])], answers, end)
    made = session.agent_answers[meant:]
    assert [one.frame for one in made] == session.slips
    for one in made:
        assert one.frames == answers[one.answer].samples // FRAME_SAMPLES
        assert any(
            begin <= one.frame * FRAME_SAMPLES and (one.frame + one.frames) * FRAME_SAMPLES <= end
            for begin, end in session.overheard
        )


@settings(max_examples=120)
@given(SEEDS)
def test_okay_ends_no_answer_and_stop_does(tmp_path_factory, seed):
    """A back-channel during an answer leaves it whole; after "stop" it lasts for some frames at most."""
    users, answers = shards(tmp_path_factory)
    session = composed(users, answers, seed)
    for segment in session.user_segments:
        kind, frame = users[segment.utterance].kind, segment.at // FRAME_SAMPLES
        during = [one for one in session.agent_answers if one.frame <= frame < one.frame + one.frames]
        for answered in during:
            length = answers[answered.answer].samples // FRAME_SAMPLES
            ends = answered.frame + answered.frames
            if kind == "backchannel":
                assert answered.frames == length or ends == FRAMES
            if kind == "stop":
                stopped = (segment.at + segment.end - segment.begin) // FRAME_SAMPLES
                assert ends <= stopped + 5


@settings(max_examples=120)
@given(SEEDS)
def test_what_is_not_asked_is_not_answered(tmp_path_factory, seed):
    """Every answer belongs to a question that ended just before it."""
    users, answers = shards(tmp_path_factory)
    session = composed(users, answers, seed)
    whole = [
        (segment.at + segment.end - segment.begin, users[segment.utterance])
        for segment in session.user_segments
        if segment.end == users[segment.utterance].samples
    ]
    for answered in session.agent_answers:
        end, asked = max(
            (one for one in whole if one[0] <= answered.frame * FRAME_SAMPLES), key=lambda o: o[0]
        )
        assert answered.frame - end // FRAME_SAMPLES <= 10
        assert asked.kind not in ("stop", "backchannel")
        assert asked.answer in (answered.answer, "")


def test_that_again_is_the_answer_before(tmp_path_factory):
    """ "Repeat that" is answered with the last complete answer, and at first refused."""
    users, answers = shards(tmp_path_factory)
    asked = [one for one in users if one.kind in ("sum", "repeat")]
    again = 0
    for seed in range(60):
        session = composed(asked, answers, seed)
        before = ANSWERS["unknown"]
        for answered in session.agent_answers:
            end = answered.frame * FRAME_SAMPLES
            last = max(
                (s for s in session.user_segments if s.at + s.end - s.begin <= end), key=lambda s: s.at
            )
            if asked[last.utterance].kind == "repeat":
                again += 1
                assert answered.answer == before
            if answered.frames == answers[answered.answer].samples // FRAME_SAMPLES:
                before = answered.answer
    assert again > 10


@settings(max_examples=60)
@given(SEEDS)
def test_words_are_written_while_they_are_spoken(tmp_path_factory, seed):
    """Each at the frame in which its sound begins, in order, and none that is cut off."""
    users, answers = shards(tmp_path_factory)
    session = composed(users, answers, seed)
    _, agent = speaking(session)
    assert all(agent[frame] for frame, _ in session.words)
    frames = [frame for frame, _ in session.words]
    assert frames == sorted(frames)
    for answered in session.agent_answers:
        text = [w for frame, w in session.words if 0 <= frame - answered.frame < answered.frames]
        assert answered.answer.startswith(" ".join(text))


@settings(max_examples=60)
@given(SEEDS)
def test_a_result_is_known_before_it_is_spoken(tmp_path_factory, seed):
    """From the first word of an answer to the frame of its result; it is the number in the words."""
    users, answers = shards(tmp_path_factory)
    session = composed(users, answers, seed)
    row = results_by_frame(session)
    for answered in session.agent_answers:
        words = answered.answer.split()
        whole = answered.frames == answers[answered.answer].samples // FRAME_SAMPLES
        if "is" not in words or not whole:
            assert "is" in words or row[min(answered.frame, FRAMES - 1)] == NO_RESULT
            continue
        result_frame = [frame for frame, _ in session.words if frame >= answered.frame][words.index("is") + 1]
        assert (row[answered.frame : result_frame + 1] > NO_RESULT).all()
        assert row[result_frame + 1] == NO_RESULT
        assert in_words(int(row[result_frame])) + "." == " ".join(words[words.index("is") + 1 :])


@settings(max_examples=60)
@given(SEEDS)
def test_a_session_is_decided_by_its_seed(tmp_path_factory, seed):
    """Encoded files can be made again."""
    users, answers = shards(tmp_path_factory)
    one, other = (composed(users, answers, seed) for _ in range(2))
    assert one == other


def test_no_pause_follows_a_whole_question(tmp_path_factory):
    """A pause comes only where the question is incomplete: before the second operand is over."""
    users, _ = shards(tmp_path_factory)
    numbers = {in_words(number) for number in range(21)}
    found = 0
    for one in users:
        for before in pauses(one):
            spoken = one.text.split()[:before]
            found += 1
            assert len([word for word in spoken if word in numbers]) < 2
            assert " ".join(spoken) not in complete_phrases()
    assert found


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), max_size=12))
def test_no_word_is_lost_to_another(events):
    """Two words of one frame stand in two, in their order, as long as there is room."""
    numbers = {"a": 1, "b": 2, "c": 3}
    row = by_frame(events, numbers, 60, other=9)
    assert [n for n in row if n] == [numbers[word] for _, word in sorted(events)]
    assert by_frame([(5, "stranger")], numbers, 10, other=9)[5] == 9
