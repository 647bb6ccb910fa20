"""Draws users' questions with the agent's answers, as text; those of an evaluation are held out.

Held out by construction: pairs of operands (both orders, sums and differences), whole
phrasings, and sentences beyond the agent's understanding. The tables: `wording`. Speakers:
`synthesizers.voices`.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from pipeline.train.conversation.wording import (
    ANSWERS,
    BEYOND,
    CORRECTIONS,
    FILLERS,
    HUMS,
    NAMES,
    PHRASINGS,
    PREDICATES,
    QUESTIONS,
    REQUESTS,
    SHARES,
    SUBJECTS,
    Kind,
    Split,
)

LARGEST_OPERAND: Final = 20
_UNITS: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS: Final = {20: "twenty", 30: "thirty", 40: "forty"}
_HELD_OUT_PAIRS: Final = 26  # of 231 unordered ones
_PAIR_SEED: Final = 20

LARGEST_WRITTEN: Final = 49  # that the agent's words can name
Manner = Literal["fluent", "filler", "repeat", "correction"]
_MANNERS: Final[dict[Manner, float]] = {"fluent": 0.54, "filler": 0.16, "repeat": 0.05, "correction": 0.25}
_PUNCTUATION: Final = str.maketrans("", "", ",.?!")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and its answer; `operands` only of sums and differences.

    `prompt` is the question with the commas that a synthesizer reads as pauses. `answer` is empty
    where the agent does not answer, or where it depends on the answer before ("repeat").
    """

    kind: Kind
    question: str
    answer: str
    operands: tuple[int, int] | None = None
    prompt: str = ""


def in_words(number: int) -> str:
    """-49 to 49 as words: `"minus twenty one"`."""
    if number < 0:
        return f"minus {in_words(-number)}"
    if number < len(_UNITS):
        return _UNITS[number]
    tens, unit = number - number % 10, number % 10
    return f"{_TENS[tens]} {_UNITS[unit]}" if unit else _TENS[tens]


def held_out_pairs() -> frozenset[tuple[int, int]]:
    """Ordered pairs that no training sentence combines, each together with its mirror image."""
    unordered = [(a, b) for a in range(LARGEST_OPERAND + 1) for b in range(a, LARGEST_OPERAND + 1)]
    chosen = np.random.default_rng(_PAIR_SEED).choice(len(unordered), _HELD_OUT_PAIRS, replace=False)
    pairs = [unordered[index] for index in chosen]
    return frozenset([*pairs, *((b, a) for a, b in pairs)])


def plain(text: str) -> str:
    """Lower case, no punctuation: what two recognizers of the same words agree on."""
    return text.lower().translate(_PUNCTUATION)


def arithmetic_answer(kind: Kind, a: int, b: int) -> str:
    """The whole sentence, operands first: what was recognized is written before the result."""
    plus = kind == "sum"
    result = in_words(a + b if plus else a - b)
    sentence = f"{in_words(a)} {'plus' if plus else 'minus'} {in_words(b)} is {result}."
    return sentence[0].upper() + sentence[1:]


def answers(split: Split) -> list[str]:
    """Every sentence of the agent; "train": all but those about held-out pairs."""
    held_out = held_out_pairs()
    numbers = range(LARGEST_OPERAND + 1)
    return list(ANSWERS.values()) + [
        arithmetic_answer(kind, a, b)
        for kind in ("sum", "difference")
        for a in numbers
        for b in numbers
        if split == "held_out" or (a, b) not in held_out
    ]


def writable() -> list[str]:
    """Sentences with every word of the agent's vocabulary, larger operands included."""
    larger = range(LARGEST_OPERAND + 1, LARGEST_WRITTEN + 1)
    return answers("held_out") + [arithmetic_answer("difference", number, number) for number in larger]


def agent_words() -> list[str]:
    """The agent's vocabulary, sorted: words as they are written, "Seven", "seven" and "seven." apart."""
    return sorted({word for answer in writable() for word in answer.split()})


def understood_words() -> list[str]:
    """Words of questions that the agent can answer, sorted; all others share one class."""
    texts = [text.format(a="", b="", n="") for texts in PHRASINGS.values() for text in texts]
    numbers = [in_words(number) for number in range(LARGEST_OPERAND + 1)]
    others = (*FILLERS, *CORRECTIONS, "times divided by")
    return sorted({word for text in (*texts, *numbers, *others) for word in text.split()})


@functools.cache
def complete_phrases() -> frozenset[str]:
    """What is a whole utterance by itself, numbers apart: after it, a pause is the end."""
    return frozenset(text for (_, _), texts in PHRASINGS.items() for text in texts if "{" not in text)


def _unknown(rng: np.random.Generator, split: Split) -> str:
    """Sentences that the agent refuses."""
    subject = str(rng.choice(SUBJECTS[split]))
    way = int(rng.choice(5, p=(0.2, 0.2, 0.1, 0.3, 0.2)))
    if way == 0:
        return f"{subject} {rng.choice(PREDICATES)}"
    if way == 1:
        return str(rng.choice(QUESTIONS)).format(s=subject)
    if way == 2:
        return f"{rng.choice(REQUESTS[split])} {rng.choice(('for', 'with', 'and', 'near'))} {subject}"
    if way == 3:
        return str(rng.choice(REQUESTS[split]))
    a, b = rng.integers(0, LARGEST_OPERAND + 1, 2)
    return str(rng.choice(BEYOND[split])).format(a=in_words(int(a)), b=in_words(int(b)))


def draw(
    rng: np.random.Generator,
    *,
    phrasing: Split = "train",
    pairs: Split = "train",
    kind: Kind | None = None,
    manner: Manner | None = None,
) -> Exchange:
    """One exchange, of a `kind` and `manner` or any; the caller chooses which aspects are held out."""
    chosen: Kind = kind or list(SHARES)[int(rng.choice(len(SHARES), p=list(SHARES.values())))]
    if chosen == "unknown":
        text = _unknown(rng, phrasing)
        return Exchange(chosen, text, ANSWERS[chosen], prompt=text)
    text = str(rng.choice(PHRASINGS[chosen, phrasing]))
    if chosen not in ("sum", "difference"):
        text = text.format(n=rng.choice(NAMES[phrasing]))
        return Exchange(chosen, text, ANSWERS.get(chosen, ""), prompt=text)
    a, b = next(_operands(rng, pairs))
    way = manner or list(_MANNERS)[int(rng.choice(len(_MANNERS), p=list(_MANNERS.values())))]
    prompt = _prompt(rng, text, (a, b), way)
    return Exchange(chosen, plain(prompt), arithmetic_answer(chosen, a, b), (a, b), prompt)


def _prompt(rng: np.random.Generator, text: str, operands: tuple[int, int], manner: Manner) -> str:
    """The question with a hesitation, a repetition or a correction, as its `manner` requires."""
    spoken = {"a": in_words(operands[0]), "b": in_words(operands[1])}
    which = str(rng.choice(("a", "b")))
    if manner == "correction":
        wrong = int(rng.choice([n for n in range(LARGEST_OPERAND + 1) if in_words(n) != spoken[which]]))
        spoken[which] = f"{in_words(wrong)}, {rng.choice(CORRECTIONS)}, {spoken[which]}"
    elif manner == "repeat":
        spoken[which] = f"{spoken[which]}, {spoken[which]}"
    elif manner == "filler":
        if rng.random() < 0.4:
            return f"{rng.choice(FILLERS)}, {text.format(**spoken)}"
        filler = rng.choice(HUMS)
        spoken[which] = (
            f"{filler}, {spoken[which]}" if text.startswith("{" + which) else f", {filler}, {spoken[which]}"
        )
    return text.format(**spoken).replace(" ,", ",")


def _operands(rng: np.random.Generator, split: Split) -> Iterator[tuple[int, int]]:
    held_out = held_out_pairs()
    if split == "held_out":
        yield sorted(held_out)[int(rng.integers(len(held_out)))]
    while True:
        a, b = (int(n) for n in rng.integers(0, LARGEST_OPERAND + 1, 2))
        if (a, b) not in held_out:
            yield a, b
