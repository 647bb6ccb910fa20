"""What is asked and answered, and what training is kept from."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.train.conversation.phrases import (
    LARGEST_OPERAND,
    agent_words,
    answers,
    arithmetic_answer,
    draw,
    held_out_pairs,
    in_words,
    plain,
)
from pipeline.train.conversation.wording import PHRASINGS, SHARES
from pipeline.train.synthesizers.voices import draw_user

SEEDS = st.integers(0, 2**32 - 1)
KINDS = [kind for kind in SHARES if kind != "unknown"]


def test_numbers_are_distinct():
    """No two numbers that can be asked or answered have the same words."""
    spoken = [in_words(number) for number in range(-20, 41)]
    assert len(set(spoken)) == len(spoken)
    assert in_words(-13) == "minus thirteen"
    assert in_words(21) == "twenty one"


def test_an_answer_is_true():
    """The last words of an arithmetic answer are the result of its first."""
    for a in range(LARGEST_OPERAND + 1):
        for b in range(LARGEST_OPERAND + 1):
            assert arithmetic_answer("sum", a, b).endswith(f" is {in_words(a + b)}.")
            assert arithmetic_answer("difference", a, b).endswith(f" is {in_words(a - b)}.")


def test_a_held_out_pair_is_held_out_both_ways_round():
    """A model trained on four plus three has effectively been trained on three plus four."""
    pairs = held_out_pairs()
    assert {(b, a) for a, b in pairs} == pairs
    assert 0.05 < len(pairs) / (LARGEST_OPERAND + 1) ** 2 < 0.2


@given(SEEDS)
def test_training_never_sees_a_held_out_pair(seed):
    """Neither as a question nor as an answer; an evaluation of pairs sees nothing else."""
    rng = np.random.default_rng(seed)
    seen, kept = draw(rng, kind="sum"), draw(rng, kind="difference", pairs="held_out")
    assert seen.operands not in held_out_pairs()
    assert kept.operands in held_out_pairs()
    assert seen.answer in answers("train")
    assert kept.answer not in answers("train")


def test_no_phrasing_is_in_both_splits():
    """What is asked in a held-out way is asked in words that training never put together."""
    for kind in KINDS:
        assert PHRASINGS[kind, "held_out"]
        assert not set(PHRASINGS[kind, "held_out"]) & set(PHRASINGS[kind, "train"])


@given(SEEDS)
def test_what_is_refused_is_held_out_too(seed):
    """No sentence beyond the agent is in both splits."""
    rng = np.random.default_rng(seed)
    trained = {draw(rng, kind="unknown", phrasing="train").question for _ in range(50)}
    assert not trained & {draw(rng, kind="unknown", phrasing="held_out").question for _ in range(50)}


@given(SEEDS)
def test_a_correction_is_answered_as_corrected(seed):
    """The number that was taken back comes before the one that counts, and is another."""
    rng = np.random.default_rng(seed)
    one = draw(rng, kind="sum", manner="correction")
    words = one.question.split()
    taken = next(words.index(hint) for hint in ("no", "sorry", "i") if hint in words and words.index(hint))
    numbers = {in_words(number): number for number in range(LARGEST_OPERAND + 1)}
    spoken = [numbers[word] for word in words if word in numbers]
    assert len(spoken) == 3
    wrong = numbers[words[taken - 1]]
    assert sorted(spoken) == sorted([wrong, *one.operands])
    assert one.answer == arithmetic_answer("sum", *one.operands)


@given(SEEDS)
def test_a_prompt_says_the_words_of_its_question(seed):
    """Commas apart, which are pauses: the words whose times are looked for are those that are spoken."""
    one = draw(np.random.default_rng(seed))
    assert plain(one.prompt) == one.question


def test_answers_are_written_as_sentences():
    """A capital first, and a full stop or a question mark last."""
    for answer in answers("held_out"):
        assert answer[0].isupper()
        assert answer[-1] in ".?"


@given(SEEDS)
def test_a_draw_is_decided_by_its_seed(seed):
    """The corpus can be made again."""
    assert draw(np.random.default_rng(seed)) == draw(np.random.default_rng(seed))


def test_the_agent_has_few_words():
    """Every answer is made of them."""
    words = set(agent_words())
    assert len(words) < 120
    assert {word for answer in answers("held_out") for word in answer.split()} <= words


@given(SEEDS)
def test_a_held_out_voice_or_speed_is_never_trained_on(seed):
    """Variants and speeds of the two splits have nothing in common."""
    rng = np.random.default_rng(seed)
    trained = [draw_user(rng) for _ in range(100)]
    kept = [draw_user(rng, voice="held_out", speed="held_out") for _ in range(100)]
    assert not {v.name.split("+")[1] for v in trained} & {v.name.split("+")[1] for v in kept}
    assert not {v.speed for v in trained} & {v.speed for v in kept}
