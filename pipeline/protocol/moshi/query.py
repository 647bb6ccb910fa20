"""What a Moshi or PersonaPlex client asks for in its URL: how to sample, and a prompt."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline.protocol.metadata import SEED_MAX, Configure
from pipeline.protocol.objects import FieldError, from_fields

# Names in the URL, and of `Configure` on the wire; `pad_mult` is added to the logit of padding.
_SAMPLING: Final[Mapping[str, str]] = {
    "text_temperature": "textTemperature",
    "text_topk": "textTopK",
    "audio_temperature": "temperature",
    "audio_topk": "topK",
    "pad_mult": "paddingBias",
    "repetition_penalty": "repetitionPenalty",
}
_PROMPTS: Final = ("voice_prompt", "text_prompt")
_SEED_FACTOR: Final = 1_000_003


class QueryError(Exception):
    """A parameter of the URL is not a number, or out of range; the message names it."""


@dataclass(frozen=True, slots=True)
class Query:
    """What was asked for. `unsupported`: the names of prompts, which no model here takes."""

    sampling: Configure | None
    unsupported: tuple[str, ...]


def read_query(query: Mapping[str, str]) -> Query:
    """Read the parameters; those that are unknown or empty are ignored.

    Raises:
        QueryError: one is not a number, or out of range.
    """
    fields: dict[str, Any] = {
        theirs: _number(ours, query[ours]) for ours, theirs in _SAMPLING.items() if query.get(ours)
    }
    seed = _seed(query)
    if seed is not None:
        fields["seed"] = seed
    try:
        sampling = from_fields(Configure, fields, "") if fields else None
    except FieldError as error:
        wire = {wire: name for name, wire in _SAMPLING.items()}
        name = wire.get(error.path.removeprefix("."), "seed")
        raise QueryError(f"{name} {error.problem}") from None
    return Query(sampling, tuple(name for name in _PROMPTS if query.get(name, "").strip()))


def _seed(query: Mapping[str, str]) -> int | None:
    """One seed from `seed`, or from those of text and audio together; negative ones are random."""
    seeds = [_number(name, query[name]) for name in ("seed", "text_seed", "audio_seed") if query.get(name)]
    for seed in seeds:
        if not isinstance(seed, int):
            raise QueryError("a seed must be a whole number")
    if not seeds or any(seed < 0 for seed in seeds):
        return None
    combined = 0
    for seed in seeds:
        combined = (combined * _SEED_FACTOR + int(seed)) % (SEED_MAX + 1)
    return combined


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise QueryError(f"{name} must be a number")
    return int(number) if number.is_integer() else number
