"""Text as phonemes, by espeak-ng, and in the spelling that neural voices were trained on."""

import functools
import re
import subprocess
from typing import Final

from pipeline.train.synthesizers.espeak import SynthesizerError

# espeak-ng's IPA, diphthongs tied, as misaki spells it, which Kokoro was trained on (misaki,
# `espeak.py`, `EspeakFallback`). The longest first.
_KOKORO: Final = (
    ("ʔˌn̩", "tn"), ("ʔn̩", "tn"), ("ʔn", "tn"), ("ʔ", "t"), ("a^ɪ", "I"), ("a^ʊ", "W"), ("d^ʒ", "ʤ"),
    ("e^ɪ", "A"), ("t^ʃ", "ʧ"), ("ɔ^ɪ", "Y"), ("ə^l", "ᵊl"), ("ʲo", "jo"), ("ʲə", "jə"), ("ʲ", ""),
    ("ɚ", "əɹ"), ("r", "ɹ"), ("x", "k"), ("ç", "k"), ("ɐ", "ə"), ("ɬ", "l"), ("̃", ""), ("̩", ""),
)  # fmt: skip
_AMERICAN: Final = (("o^ʊ", "O"), ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɪə", "iə"), ("ː", ""))
_BRITISH: Final = (("e^ə", "ɛː"), ("iə", "ɪə"), ("ə^ʊ", "Q"))
_PAUSES: Final = ",.?!"
# What espeak-ng runs together or swallows, as misaki's lexicon spells it.
_WORDS: Final = tuple(
    (re.compile(rf"(?<!\S){old}(?=[\s{_PAUSES}]|$)"), new)
    for old, new in (("I", "ˌI"), ("Iəm", "ˌI ˈæm"), ("Iˈæm", "ˌI ˈæm"), ("dunˌɑt", "dˈu nˌɑt"))
)


@functools.lru_cache(maxsize=100_000)
def ipa(text: str, accent: str) -> str:
    """`text` without punctuation in IPA; the parts of a diphthong tied by "^".

    Raises:
        SynthesizerError: espeak-ng is not installed.
    """
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and the text is an argument
            ["espeak-ng", "-q", "--ipa=3", "-v", accent, "--", text],  # noqa: S607 - where the system has it
            capture_output=True,
            text=True,
            check=True,
        )
    except FileNotFoundError:
        raise SynthesizerError("espeak-ng is not installed (Debian: apt-get install espeak-ng)") from None
    return " ".join(done.stdout.split()).replace("\u200d", "^")


def clauses(text: str) -> list[tuple[str, str]]:
    """`"well, stop."` → `[("well", ","), ("stop", ".")]`."""
    pieces, words = [], ""
    for letter in text:
        if letter in _PAUSES:
            pieces.append((words.strip(), letter))
            words = ""
        else:
            words += letter
    if words.strip():
        pieces.append((words.strip(), ""))
    return [(words, mark) for words, mark in pieces if words]


def kokoro_phonemes(text: str, *, british: bool) -> str:
    """`text` as Kokoro reads it, its punctuation kept."""
    accent = "en-gb" if british else "en-us"
    spelled = []
    for words, mark in clauses(text):
        sounds = ipa(words, accent)
        for old, new in (*_KOKORO, *(_BRITISH if british else _AMERICAN)):
            sounds = sounds.replace(old, new)
        spelled.append(sounds.replace("e", "A").replace("^", "").replace("o", "ɔ") + mark)
    text = " ".join(spelled)
    for word, misaki in _WORDS:
        text = word.sub(misaki, text)
    return text
