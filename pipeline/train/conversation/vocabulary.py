"""The agent's words as tokens: a SentencePiece model of whole words, trained on its sentences."""

from pathlib import Path
from typing import Final

import sentencepiece

from pipeline.train.conversation.phrases import agent_words, writable
from pipeline.train.recordings.bank import CorpusError

FILE: Final = "tokenizer.model"
PADDING: Final = 3
_MARK: Final = "\N{LOWER ONE EIGHTH BLOCK}"


def train_tokenizer(folder: Path) -> None:
    """Write the tokenizer; the same each time."""
    folder.mkdir(parents=True, exist_ok=True)
    special = 4  # unknown, begin, end, padding
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(writable()),
        model_prefix=str(folder / FILE.removesuffix(".model")),
        model_type="word",
        normalization_rule_name="identity",
        character_coverage=1.0,
        vocab_size=special + len(agent_words()),
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=PADDING,
        minloglevel=2,
    )
    (folder / FILE).with_suffix(".vocab").unlink()


def word_numbers(folder: Path) -> dict[str, int]:
    """Each word's token.

    Raises:
        CorpusError: there is no tokenizer in the folder.
    """
    if not (folder / FILE).is_file():
        raise CorpusError(f"{folder} has no {FILE}: python -m pipeline.train.corpus makes it")
    return pieces(sentencepiece.SentencePieceProcessor(model_file=str(folder / FILE)))


def pieces(tokenizer: sentencepiece.SentencePieceProcessor) -> dict[str, int]:
    """Each word's token, of a tokenizer of whole words."""
    return {
        tokenizer.id_to_piece(number).removeprefix(_MARK): number
        for number in range(PADDING + 1, tokenizer.vocab_size())
    }
