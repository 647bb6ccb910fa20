"""Tokens into utterances."""

import io
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import WeightsError
from pipeline.stages.text import SentencePiece, TokenIds, Utterance, UtteranceRules
from pipeline.values import TextFinal, TextPartial

RULES = UtteranceRules(padding=frozenset({0, 3}), padding_run=3, max_steps=10)
PAD = 3


def feed(utterance: Utterance, tokens: list[int]) -> list[object]:
    return [texts for token in tokens for texts in utterance.step(token)]


def test_a_partial_is_the_whole_utterance_so_far() -> None:
    texts = feed(Utterance(RULES, TokenIds()), [PAD, 7, PAD, 8, 0, 9])
    assert texts == [TextPartial("7"), TextPartial("7 8"), TextPartial("7 8 9")]


def test_a_run_of_padding_closes_the_utterance_once() -> None:
    texts = feed(Utterance(RULES, TokenIds()), [7, PAD, 0, PAD, PAD, PAD, PAD])
    assert texts == [TextPartial("7"), TextFinal("7")]


def test_a_broken_run_of_padding_closes_nothing() -> None:
    texts = feed(Utterance(RULES, TokenIds()), [7, PAD, PAD, 8, PAD, PAD])
    assert texts == [TextPartial("7"), TextPartial("7 8")]


def test_an_utterance_ends_at_its_maximum_length() -> None:
    texts = feed(Utterance(RULES, TokenIds()), [5] * 25)
    assert [s.text for s in texts if isinstance(s, TextFinal)] == [" ".join(["5"] * 10)] * 2


@given(st.lists(st.sampled_from([0, 3, 5, 6]), max_size=60))
def test_finals_hold_every_spoken_token_once_in_order(tokens: list[int]) -> None:
    utterance = Utterance(RULES, TokenIds())
    texts = feed(utterance, tokens) + list(utterance.close())
    spoken = [str(t) for t in tokens if t not in RULES.padding]
    assert " ".join(s.text for s in texts if isinstance(s, TextFinal)).split() == spoken
    assert utterance.close() == ()


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model trained on a few sentences."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["hello there", "how are you today", "three plus four is seven"] * 20),
        model_writer=model,
        vocab_size=60,
        model_type="unigram",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("pieces") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


def test_sentencepiece_decodes_what_it_encodes(pieces: Path) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    detokenizer = SentencePiece(pieces, processor.vocab_size())
    utterance = Utterance(UtteranceRules(frozenset({0}), padding_run=3, max_steps=50), detokenizer)
    texts = feed(utterance, processor.encode("how are you"))
    assert texts[-1] == TextPartial("how are you")
    assert utterance.step(processor.eos_id()) == (TextFinal("how are you"),)


def test_a_tokenizer_of_another_size_is_refused_with_both_sizes(pieces: Path) -> None:
    with pytest.raises(WeightsError, match="text_card is 32000"):
        SentencePiece(pieces, 32000)


def test_a_tokenizer_that_is_missing_or_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        SentencePiece(tmp_path / "none.model", 60)
    (tmp_path / "bad.model").write_bytes(b"not a model at all")
    with pytest.raises(WeightsError, match="not a SentencePiece model"):
        SentencePiece(tmp_path / "bad.model", 60)
