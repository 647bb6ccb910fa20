"""Sums in writing are sums, in order, and none of those that are held out."""

import numpy as np
import pytest
from support.train.recipes import small_recipe

torch = pytest.importorskip("torch")

from pipeline.train.conversation.diction import Diction, words_in  # noqa: E402
from pipeline.train.conversation.drills import Amount, Drills  # noqa: E402
from pipeline.train.conversation.phrases import agent_words, answers, held_out_pairs, in_words, plain  # noqa: E402
from pipeline.train.conversation.vocabulary import PADDING  # noqa: E402
from pipeline.train.language import Heads, after, cross_text, losses, respoken  # noqa: E402
from pipeline.train.networks.architecture import moshi_sizes  # noqa: E402 - after the skip
from pipeline.train.networks.moshi import MoshiNetwork  # noqa: E402

NUMBERS = {word: PADDING + 1 + index for index, word in enumerate(agent_words())}
WORDS = {number: word for word, number in NUMBERS.items()}


@pytest.fixture
def drills(tmp_path):
    torch.manual_seed(0)
    return Drills(NUMBERS, moshi_sizes(small_recipe(tmp_path)), torch.device("cpu"))


def words_of(row):
    return [WORDS[token] for token in row.tolist() if token != PADDING]


def test_every_sum_that_may_be_learnt_is_drilled_and_no_other(drills):
    """As many as there are answers to pairs that are not held out; the others have larger numbers."""
    written = [" ".join(words_of(row)) for row in drills.words]
    assert len(set(written)) == len(written)
    asked = {answer for answer in answers("train") if " is " in answer}
    assert set(written[: drills.asked]) == asked
    assert len(asked) == drills.asked == 2 * (21 * 21 - len(held_out_pairs()))
    assert not set(written) & {answer for answer in answers("held_out") if answer not in asked}
    assert drills.results[drills.asked :].abs().max() == 49


def test_some_sums_have_numbers_that_nobody_asks_about(drills):
    """Three of eight; they too are answers whose words the agent has, and their results are right."""
    torch.manual_seed(1)
    drill = drills.draw(2000)
    right = {
        " ".join(words_of(row)): int(result) for row, result in zip(drills.words, drills.results, strict=True)
    }
    larger = {" ".join(words_of(row)) for row in drills.words[drills.asked :]}
    firsts = [
        max((answer for answer in right if " ".join(words_of(text)).startswith(answer)), key=len)
        for text in drill.text[:300]
    ]
    assert 70 < sum(first in larger for first in firsts) < 155
    values = {in_words(number): number for number in range(-49, 50)}
    for answer, result in right.items():
        left, spoken = answer.split(" is ")
        sign = 1 if " plus " in left else -1
        a, b = left.split(" plus " if sign == 1 else " minus ", 1)
        assert values[plain(a)] + sign * values[b] == values[plain(spoken)] == result


def test_a_drill_is_answers_one_after_the_other(drills):
    """In order, cut off at the end of the row at most; asked is what follows "is", and known from there."""
    drill = drills.draw(200)
    right = {
        " ".join(words_of(row)): result.item()
        for row, result in zip(drills.words, drills.results, strict=True)
    }
    whole = 0
    for text, asked, known, results in zip(drill.text, drill.asked, drill.known, drill.results, strict=True):
        words = " ".join(words_of(text))
        first = next(answer for answer in sorted(right, key=len, reverse=True) if words.startswith(answer))
        second = words.removeprefix(first).strip()
        assert any(answer.startswith(second) for answer in right)
        whole += second in right
        assert results[known.nonzero()[0, 0]] == right[first]
        is_at = (text == NUMBERS["is"]).nonzero()[:, 0].tolist()
        assert not known[: is_at[0] + 1].any()
        assert all(known[at + 1] for at in is_at if at + 1 < len(text))
        if second in right:
            assert results[is_at[1] + 1] == right[second]
            results_in_words = [answer.split(" is ")[1] for answer in (first, second)]
            assert " ".join(words_of(text[asked])) == " ".join(results_in_words)
    assert whole > 100


def test_a_step_is_given_what_was_written_before_it(drills):
    """And nothing else: there is no audio."""
    drill = drills.draw(20)
    given = drills.inputs(drill)
    assert torch.equal(given[:, 0, 1:], drill.text[:, :-1])
    assert (given[:, 1:] == -1).all()


def test_an_amount_generalizes_to_unseen_numbers():
    """A state that goes round the circles predicts results between those that were trained on."""
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


def test_what_follows_a_word_is_in_its_answer():
    """From the step after the word to the answer's last; the next answer begins anew."""
    text = torch.tensor([[3, 9, 3, 7, 5, 3, 3, 9, 3, 4, 3, 7, 8]])
    speaking = torch.tensor([[0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1]]).bool()
    assert after(7, text, speaking).nonzero()[:, 1].tolist() == [4, 5, 12]


@pytest.fixture
def batch(tmp_path):
    """Eight sessions of 40 frames in which the agent says three words of four frames each."""
    torch.manual_seed(0)
    sizes = moshi_sizes(small_recipe(tmp_path))
    codes = torch.randint(0, 30, (8, 1 + sizes.n_q, 40))
    codes[:, 0] = PADDING
    codes[:, 0, 10:22:4] = torch.tensor([7, 8, 9])
    speaking = torch.zeros(8, 40).bool()
    speaking[:, 10:22] = True
    user_words, results = torch.randint(0, 9, (8, 40)), torch.randint(0, 9, (8, 40)).float()
    rows = {"speaking": speaking, "user_words": user_words, "results": results}
    return sizes, {"codes": codes, "slips": torch.zeros(8, 40).bool(), **rows}


def test_a_crossed_session_has_another_ones_text(batch):
    """Three of eight: what is written, when, and to what result is another's; what sounds is their own."""
    _, whole = batch
    whole["inputs"] = whole["codes"].clone()
    whole["speaking"] = torch.rand(8, 40) < 0.5
    crossed = cross_text(whole)
    assert crossed["apart"].tolist() == [True] * 3 + [False] * 5
    assert torch.equal(crossed["user_words"], whole["user_words"])
    for name in ("codes", "inputs"):
        assert torch.equal(crossed[name][:, 1:], whole[name][:, 1:])
        assert torch.equal(crossed[name][:3, 0], whole[name][[7, 0, 1], 0])
        assert torch.equal(crossed[name][3:], whole[name][3:])
    for name in ("results", "speaking"):
        assert torch.equal(crossed[name][:3], whole[name][[7, 0, 1]])
        assert torch.equal(crossed[name][3:], whole[name][3:])


def test_a_slip_is_not_learned(batch):
    """Whichever word the agent begins to answer others with; elsewhere it matters which word it is."""
    sizes, whole = batch
    whole["inputs"], whole["respoken"] = whole["codes"].clone(), torch.zeros(8).bool()
    whole["slips"][4, 10] = True
    torch.manual_seed(1)
    model, heads = MoshiNetwork(sizes), Heads(sizes.transformer.dim, 9)
    with torch.no_grad():
        model.text_emb.weight[5] = model.text_emb.weight[7]  # as inputs, the two words are the same

    def words(row):
        codes = whole["codes"].clone()
        codes[row, 0, 10] = 5
        torch.manual_seed(2)
        return losses(model, heads, whole | {"codes": codes}, equals=11)["words"].item()

    torch.manual_seed(2)
    as_written = losses(model, heads, whole, equals=11)["words"].item()
    assert words(4) == as_written
    assert words(5) != as_written


def test_a_word_is_replaced_by_another_recording_of_it(batch):
    """Every other session has the same words out of other sentences as input; all else is its own."""
    sizes, whole = batch
    spoken = slice(1, 1 + sizes.dep_q)
    agent = whole["codes"][:, spoken]
    changed = respoken(whole, Diction(whole["codes"][:, 0], agent, whole["speaking"]), sizes)
    assert changed["respoken"].tolist() == [True, False] * 3 + [True, False]
    assert torch.equal(changed["codes"], whole["codes"])
    given = changed["inputs"]
    for row, again in enumerate(changed["respoken"].tolist()):
        for start in (10, 14, 18):
            piece = given[row, spoken, start : start + 4]
            sources = [other for other in range(8) if torch.equal(piece, agent[other, :, start : start + 4])]
            assert len(sources) == 1
            assert again or sources == [row]
    assert not torch.equal(given[changed["respoken"]][:, spoken], agent[changed["respoken"]])
    outside = ~whole["speaking"]
    assert torch.equal(given.transpose(1, 2)[outside], whole["codes"].transpose(1, 2)[outside])
    assert torch.equal(given[:, spoken.stop :], whole["codes"][:, spoken.stop :])
    assert torch.equal(given[:, 0], whole["codes"][:, 0])


def test_a_word_ends_where_the_next_begins_or_the_answer_ends():
    """Its row, first frame, frames and token."""
    text = np.array([[3, 9, 3, 7, 3, 3], [3, 3, 3, 3, 8, 3]])
    speaking = np.array([[0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1]], bool)
    words = [part.tolist() for part in words_in(text, speaking)]
    assert words == [[0, 0, 1], [1, 3, 4], [2, 2, 2], [9, 7, 8]]
