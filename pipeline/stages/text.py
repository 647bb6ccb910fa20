"""What the agent says in letters: tokens gathered into utterances.

The language model produces one text token a step, most of them padding. An utterance
begins with the first token that is not, and is closed by a run of padding, by the end of
sequence, by its length in steps, or by the end of the session.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import sentencepiece

from pipeline.errors import WeightsError
from pipeline.values import Text, TextFinal, TextPartial


class Spelling(Protocol):
    """How token ids become text."""

    kind: Literal["ids", "text"]
    end_of_sequence: int | None

    def spell(self, tokens: list[int]) -> str:
        """The whole utterance as text."""
        ...


class TokenIds:
    """Without a tokenizer: the ids themselves, separated by spaces."""

    kind: Literal["ids", "text"] = "ids"
    end_of_sequence: int | None = None

    def spell(self, tokens: list[int]) -> str:
        """`[7, 42]` → `"7 42"`."""
        return " ".join(map(str, tokens))


class SentencePiece:
    """With the checkpoint's SentencePiece model (Kudo and Richardson 2018)."""

    kind: Literal["ids", "text"] = "text"

    def __init__(self, path: Path, vocabulary: int) -> None:
        """Read the model at `path`, which must have `vocabulary` pieces.

        Raises:
            WeightsError: the file is missing, is no SentencePiece model, or has another size.
        """
        if not path.is_file():
            raise WeightsError(str(path), "no such file")
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise WeightsError(str(path), "not a SentencePiece model") from error
        pieces = self._pieces.vocab_size()
        if pieces != vocabulary:
            raise WeightsError(str(path), f"has {pieces} pieces, but the model's text_card is {vocabulary}")
        end = self._pieces.eos_id()
        self.end_of_sequence: int | None = end if end >= 0 else None

    def spell(self, tokens: list[int]) -> str:
        """The pieces joined; a byte sequence still incomplete shows as U+FFFD."""
        return str(self._pieces.decode(tokens))


@dataclass(frozen=True, slots=True)
class UtteranceRules:
    """When an utterance ends: `padding_run` consecutive paddings, or `max_steps` steps."""

    padding: frozenset[int]
    padding_run: int
    max_steps: int


@dataclass(slots=True)
class Utterance:
    """One session's utterance in progress; at most `max_steps` tokens are ever held."""

    rules: UtteranceRules
    spelling: Spelling
    _tokens: list[int] = field(default_factory=list)
    _run: int = 0
    _steps: int = 0

    def step(self, token: int) -> tuple[Text, ...]:
        """Take one step's token; a partial for each that is spoken, a final where it closes."""
        if token == self.spelling.end_of_sequence:
            return self.close()
        if token in self.rules.padding:
            if not self._tokens:
                return ()
            self._run += 1
            said: tuple[Text, ...] = ()
        else:
            self._run = 0
            self._tokens.append(token)
            said = (TextPartial(self.spelling.spell(self._tokens)),)
        self._steps += 1
        if self._run >= self.rules.padding_run or self._steps >= self.rules.max_steps:
            return said + self.close()
        return said

    def close(self) -> tuple[Text, ...]:
        """End the utterance now; nothing where nothing was said."""
        tokens, self._tokens = self._tokens, []
        self._run = self._steps = 0
        return (TextFinal(self.spelling.spell(tokens)),) if tokens else ()
