"""What users say and what the agent answers, in words; what an evaluation asks was never trained on.

Held out by construction: pairs of operands (both orders, sums and differences), whole
phrasings, and sentences beyond the agent's understanding. Speakers: `voices`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

Split = Literal["train", "held_out"]
Kind = Literal[
    "sum", "difference", "greeting", "wellbeing", "name", "ability", "thanks", "goodbye", "unknown"
]

LARGEST_OPERAND: Final = 20
_UNITS: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS: Final = {20: "twenty", 30: "thirty", 40: "forty"}
_HELD_OUT_PAIRS: Final = 26  # of 231 unordered ones
_PAIR_SEED: Final = 20

# `{a}`, `{b}` in the order in which the answer names them.
_PHRASINGS: Final[dict[tuple[Kind, Split], tuple[str, ...]]] = {
    ("sum", "train"): (
        "what is {a} plus {b}",
        "what's {a} plus {b}",
        "{a} plus {b}",
        "how much is {a} plus {b}",
        "tell me what {a} plus {b} is",
        "please add {a} and {b}",
        "can you add {a} and {b}",
        "what do you get for {a} plus {b}",
        "and what is {a} plus {b}",
        "now {a} plus {b} please",
    ),
    ("sum", "held_out"): (
        "can you tell me what {a} plus {b} is",
        "please tell me how much is {a} plus {b}",
        "now what is {a} plus {b} please",
        "and {a} plus {b}",
    ),
    ("difference", "train"): (
        "what is {a} minus {b}",
        "what's {a} minus {b}",
        "{a} minus {b}",
        "how much is {a} minus {b}",
        "tell me what {a} minus {b} is",
        "please subtract {b} from {a}",
        "what is {a} take away {b}",
        "what do you get for {a} minus {b}",
        "and what is {a} minus {b}",
        "now {a} minus {b} please",
    ),
    ("difference", "held_out"): (
        "can you tell me what {a} minus {b} is",
        "please tell me how much is {a} minus {b}",
        "now what is {a} minus {b} please",
        "can you subtract {b} from {a}",
    ),
    ("greeting", "train"): ("hello", "hi", "hi there", "good morning", "hello there", "good evening", "hey"),
    ("greeting", "held_out"): ("good morning there", "hey hello"),
    ("wellbeing", "train"): ("how are you", "how are you today", "hello how are you", "how do you do"),
    ("wellbeing", "held_out"): ("hi how are you today", "and how are you"),
    ("name", "train"): (
        "who are you",
        "what are you",
        "what is your name",
        "tell me who you are",
        "please tell me your name",
    ),
    ("name", "held_out"): ("can you tell me who you are", "what's your name"),
    ("ability", "train"): (
        "what can you do",
        "what do you know",
        "can you help me",
        "how can you help me",
        "tell me what you can do",
    ),
    ("ability", "held_out"): ("please tell me what you can do", "what can you do for me"),
    ("thanks", "train"): ("thank you", "thanks", "thank you very much", "thanks a lot", "okay thank you"),
    ("thanks", "held_out"): ("thank you a lot", "okay thanks"),
    ("goodbye", "train"): ("goodbye", "bye", "bye bye", "see you later", "good night", "okay goodbye"),
    ("goodbye", "held_out"): ("goodbye see you later", "okay bye bye"),
}
_ANSWERS: Final[dict[Kind, str]] = {
    "greeting": "hello how can i help you",
    "wellbeing": "i am fine thank you",
    "name": "i am a small voice model",
    "ability": "i can add and subtract numbers",
    "thanks": "you are welcome",
    "goodbye": "goodbye",
    "unknown": "i did not understand",
}
# How often each is asked; arithmetic has the most to learn.
_SHARES: Final[dict[Kind, float]] = {
    "sum": 0.36,
    "difference": 0.32,
    "greeting": 0.04,
    "wellbeing": 0.03,
    "name": 0.04,
    "ability": 0.04,
    "thanks": 0.04,
    "goodbye": 0.03,
    "unknown": 0.10,
}

_SUBJECTS: Final = (
    "the weather", "my sister", "the train", "your friend", "the old house", "this song", "the garden",
    "a red car", "the radio", "my brother", "the river", "our dog", "the kitchen", "the news", "a doctor",
    "the morning bus", "the blue door", "dinner", "the meeting", "her letter", "the window", "the moon",
)  # fmt: skip
_PREDICATES: Final = (
    "is very nice today", "comes home late", "needs some water", "was not here yesterday", "looks strange",
    "will be cold tomorrow", "goes to the city", "makes a loud noise", "sleeps in the sun", "costs too much",
    "should be open", "runs along the road", "has a new colour", "is under the table", "can wait",
)  # fmt: skip
_REQUESTS: Final = (
    "play some music", "turn on the light", "call my mother", "read me a story", "set an alarm",
    "open the window", "sing a song", "find a good restaurant", "book a table", "write a short letter",
    "stop the car", "show me the pictures", "order a pizza", "switch off the heating", "buy some bread",
)  # fmt: skip
_QUESTIONS: Final = (
    "where is {s}", "when did you see {s}", "why do you like {s}", "who painted {s}", "do you remember {s}",
    "what happened to {s}", "how far away is {s}", "did you hear about {s}", "is {s} ready",
)  # fmt: skip
_BEYOND: Final = (
    "what is {a} times {b}", "what is {a} divided by {b}", "how much is {a} times {b}",
    "please multiply {a} by {b}", "{a} divided by {b}", "count to {a}", "{a} times {b} please",
    "what comes after {a}",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and its answer; `operands` only of sums and differences."""

    kind: Kind
    question: str
    answer: str
    operands: tuple[int, int] | None = None


def in_words(number: int) -> str:
    """-49 to 49, as it is said: `"minus twenty one"`."""
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


def arithmetic_answer(kind: Kind, a: int, b: int) -> str:
    """The whole sentence, operands first: by the time of the result it has been said what was heard."""
    plus = kind == "sum"
    return (
        f"{in_words(a)} {'plus' if plus else 'minus'} {in_words(b)} is {in_words(a + b if plus else a - b)}"
    )


def answers(split: Split) -> list[str]:
    """Every sentence the agent may say; "train": all but those about held-out pairs."""
    held_out = held_out_pairs()
    numbers = range(LARGEST_OPERAND + 1)
    return list(_ANSWERS.values()) + [
        arithmetic_answer(kind, a, b)
        for kind in ("sum", "difference")
        for a in numbers
        for b in numbers
        if split == "held_out" or (a, b) not in held_out
    ]


def agent_words() -> list[str]:
    """The agent's vocabulary, sorted."""
    return sorted({word for answer in answers("held_out") for word in answer.split()})


def understood_words() -> list[str]:
    """Words of questions that the agent can answer, sorted; any other is one more stranger to it."""
    texts = [text.format(a="", b="") for texts in _PHRASINGS.values() for text in texts]
    numbers = [in_words(number) for number in range(LARGEST_OPERAND + 1)]
    return sorted({word for text in (*texts, *numbers, "times divided by") for word in text.split()})


def _unknown(rng: np.random.Generator, split: Split) -> str:
    """Sentences nobody answers; held out are those about subjects at odd places of the list."""
    subject = _SUBJECTS[2 * int(rng.integers(len(_SUBJECTS) // 2)) + (split == "held_out")]
    way = int(rng.integers(4))
    if way == 0:
        return f"{subject} {rng.choice(_PREDICATES)}"
    if way == 1:
        return str(rng.choice(_QUESTIONS)).format(s=subject)
    if way == 2:
        return f"{rng.choice(_REQUESTS)} {rng.choice(('for', 'with', 'and', 'near'))} {subject}"
    a, b = rng.integers(0, LARGEST_OPERAND + 1, 2)
    return str(rng.choice(_BEYOND)).format(a=in_words(int(a)), b=in_words(int(b)))


def draw(
    rng: np.random.Generator,
    *,
    phrasing: Split = "train",
    pairs: Split = "train",
    kind: Kind | None = None,
) -> Exchange:
    """One exchange, of a `kind` or any; which of its aspects are held out, the caller says."""
    chosen: Kind = kind or list(_SHARES)[int(rng.choice(len(_SHARES), p=list(_SHARES.values())))]
    if chosen == "unknown":
        return Exchange(chosen, _unknown(rng, phrasing), _ANSWERS[chosen])
    text = str(rng.choice(_PHRASINGS[chosen, phrasing]))
    if chosen not in ("sum", "difference"):
        return Exchange(chosen, text, _ANSWERS[chosen])
    a, b = next(_operands(rng, pairs))
    question = text.format(a=in_words(a), b=in_words(b))
    return Exchange(chosen, question, arithmetic_answer(chosen, a, b), (a, b))


def _operands(rng: np.random.Generator, split: Split) -> Iterator[tuple[int, int]]:
    held_out = held_out_pairs()
    if split == "held_out":
        yield sorted(held_out)[int(rng.integers(len(held_out)))]
    while True:
        a, b = (int(n) for n in rng.integers(0, LARGEST_OPERAND + 1, 2))
        if (a, b) not in held_out:
            yield a, b
