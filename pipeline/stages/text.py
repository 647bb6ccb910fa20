"""The agent's text: tokens decoded and grouped into utterances.

The language model produces one text token a step, most of them padding. An utterance
begins with the first token that is not padding and ends with a run of padding, the end of
sequence, its maximum length in steps, or the end of the session.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import sentencepiece

from pipeline.errors import WeightsError
from pipeline.system.inputs import read_bytes
from pipeline.values import Text, TextFinal, TextPartial


class Detokenizer(Protocol):
    """Turns token ids into text."""

    kind: Literal["ids", "text"]
    end_of_sequence: int | None

    def decode(self, tokens: list[int]) -> str:
        """The text of a whole utterance."""
        ...

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without any that mark its beginning or end."""
        ...


class TokenIds:
    """Token ids separated by spaces, for models without a tokenizer."""

    kind: Literal["ids", "text"] = "ids"
    end_of_sequence: int | None = None

    def decode(self, tokens: list[int]) -> str:
        """`[7, 42]` → `"7 42"`."""
        return " ".join(map(str, tokens))

    def encode(self, text: str) -> list[int]:
        """`"7 42"` → `[7, 42]`."""
        return [int(token) for token in text.split()]


class SentencePiece:
    """The checkpoint's SentencePiece model (Kudo and Richardson 2018)."""

    kind: Literal["ids", "text"] = "text"

    def __init__(self, path: Path, vocabulary: int) -> None:
        """Read the model at `path`, which must have `vocabulary` pieces.

        Raises:
            WeightsError: the file is missing, is not a SentencePiece model, or has another size.
        """
        if not path.is_file():
            raise WeightsError(str(path), "no such file")
        try:  # the library would read all of a file, however long it is
            model = read_bytes(path)
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        except OSError as error:
            raise WeightsError(str(path), f"cannot be read ({error.strerror})") from None
        except RuntimeError as error:
            raise WeightsError(str(path), "not a SentencePiece model") from error
        if not model:  # which the library takes for none given
            raise WeightsError(str(path), "not a SentencePiece model: the file is empty")
        pieces = self._pieces.vocab_size()
        if pieces != vocabulary:
            raise WeightsError(str(path), f"has {pieces} pieces, but the model's text_card is {vocabulary}")
        end = self._pieces.eos_id()
        self.end_of_sequence: int | None = end if end >= 0 else None

    def decode(self, tokens: list[int]) -> str:
        """The pieces joined; an incomplete byte sequence shows as U+FFFD."""
        return str(self._pieces.decode(tokens))

    def encode(self, text: str) -> list[int]:
        """The pieces of a text, without any that mark its beginning or end."""
        return list(self._pieces.encode(text, add_bos=False, add_eos=False))


@dataclass(frozen=True, slots=True)
class UtteranceRules:
    """When an utterance ends: after `padding_run` consecutive padding tokens, or `max_steps` steps."""

    padding: frozenset[int]
    padding_run: int
    max_steps: int


@dataclass(slots=True)
class Utterance:
    """One session's current utterance; it holds at most `max_steps` tokens."""

    rules: UtteranceRules
    detokenizer: Detokenizer
    _tokens: list[int] = field(default_factory=list)
    _run: int = 0
    _steps: int = 0

    def step(self, token: int) -> tuple[Text, ...]:
        """Add one step's token; returns a partial after each token of text, a final at the end."""
        if token == self.detokenizer.end_of_sequence:
            return self.close()
        if token in self.rules.padding:
            if not self._tokens:
                return ()
            self._run += 1
            text: tuple[Text, ...] = ()
        else:
            self._run = 0
            self._tokens.append(token)
            text = (TextPartial(self.detokenizer.decode(self._tokens)),)
        self._steps += 1
        if self._run >= self.rules.padding_run or self._steps >= self.rules.max_steps:
            return text + self.close()
        return text

    def close(self) -> tuple[Text, ...]:
        """End the utterance now; returns its final text, if it has any."""
        tokens, self._tokens = self._tokens, []
        self._run = self._steps = 0
        return (TextFinal(self.detokenizer.decode(tokens)),) if tokens else ()
