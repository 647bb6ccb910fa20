"""Sums in writing are sums, in order, and none of those that are held out."""

import pytest
from recipes import small_recipe

torch = pytest.importorskip("torch")

from pipeline.train.architecture import moshi_sizes  # noqa: E402 - after the skip
from pipeline.train.drills import Amount, Drills  # noqa: E402
from pipeline.train.language import after, cross  # noqa: E402
from pipeline.train.phrases import agent_words, answers, held_out_pairs  # noqa: E402
from pipeline.train.vocabulary import PADDING  # noqa: E402

NUMBERS = {word: PADDING + 1 + index for index, word in enumerate(agent_words())}
WORDS = {number: word for word, number in NUMBERS.items()}


@pytest.fixture
def drills(tmp_path):
    torch.manual_seed(0)
    return Drills(NUMBERS, moshi_sizes(small_recipe(tmp_path)), torch.device("cpu"))


def words_of(row):
    return [WORDS[token] for token in row.tolist() if token != PADDING]


def test_every_sum_that_may_be_learnt_is_drilled_and_no_other(drills):
    """As many as there are answers to pairs that are not held out."""
    written = {" ".join(words_of(row)) for row in drills.words}
    assert written == {answer for answer in answers("train") if " is " in answer}
    assert len(written) == 2 * (21 * 21 - len(held_out_pairs()))


def test_a_drill_is_a_whole_answer(drills):
    """Its words in order; asked are those after "is"; its result is known from the step after that."""
    drill = drills.draw(200)
    right = {" ".join(words_of(row)) for row in drills.words}
    for text, asked, known in zip(drill.text, drill.asked, drill.known, strict=True):
        words = words_of(text)
        assert " ".join(words) in right
        assert words_of(text[asked]) == words[words.index("is") + 1 :]
        assert known.nonzero()[0, 0] == (text == NUMBERS["is"]).nonzero()[0, 0] + 1


def test_a_step_is_given_what_was_written_before_it(drills):
    """And nothing else: it hears no sound."""
    drill = drills.draw(20)
    given = drills.given(drill)
    assert torch.equal(given[:, 0, 1:], drill.text[:, :-1])
    assert (given[:, 1:] == -1).all()


def test_an_amount_can_be_learnt_of_numbers_never_seen():
    """A state that goes round the circles tells results between those that were trained on."""
    torch.manual_seed(0)
    amount = Amount(12)
    results = torch.arange(-20.0, 41)
    optimizer = torch.optim.Adam(amount.parameters(), 0.05)
    angles = 2 * torch.pi * results[:, None] / amount.periods
    state = torch.cat([angles.cos(), angles.sin()], 1)
    seen = torch.arange(61) % 5 != 2
    before = amount.loss(state[~seen], results[~seen]).item()
    for _ in range(300):
        optimizer.zero_grad()
        amount.loss(state[seen], results[seen]).backward()
        optimizer.step()
    assert amount.loss(state[~seen], results[~seen]).item() < before / 2
    assert amount.loss(state[:0], results[:0]).item() == 0


def test_what_is_said_after_a_word_is_in_its_answer():
    """From the step after the word to the answer's last; the next answer begins anew."""
    text = torch.tensor([[3, 9, 3, 7, 5, 3, 3, 9, 3, 4, 3, 7, 8]])
    speaking = torch.tensor([[0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1]]).bool()
    assert after(7, text, speaking).nonzero()[:, 1].tolist() == [4, 5, 12]


def test_a_crossed_session_has_another_ones_user(tmp_path):
    """A quarter of them: user and what is heard of one session, text and agent of another."""
    sizes = moshi_sizes(small_recipe(tmp_path))
    batch = {
        "codes": torch.randint(0, 30, (8, 1 + sizes.n_q, 5)),
        "heard": torch.randint(0, 9, (8, 5)),
        "speaking": torch.ones(8, 5).bool(),
    }
    crossed = cross(batch, sizes)
    users = 1 + sizes.dep_q
    assert crossed["apart"].tolist() == [True] * 2 + [False] * 6
    assert torch.equal(crossed["codes"][:, :users], batch["codes"][:, :users])
    assert torch.equal(crossed["codes"][:2, users:], batch["codes"][[7, 0], users:])
    assert torch.equal(crossed["heard"][:2], batch["heard"][[7, 0]])
    for name in ("codes", "heard"):
        assert torch.equal(crossed[name][2:], batch[name][2:])
