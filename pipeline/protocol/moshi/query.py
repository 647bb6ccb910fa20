"""What a Moshi or PersonaPlex client asks for in its URL: how to sample, a voice and a role."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline.protocol.metadata import SEED_MAX, Configure
from pipeline.protocol.objects import FieldError, from_fields

# Names in the URL, and of `Configure` on the wire; `pad_mult` is added to the logit of padding.
_SAMPLING: Final[dict[str, str]] = {
    "text_temperature": "textTemperature",
    "text_topk": "textTopK",
    "audio_temperature": "temperature",
    "audio_topk": "topK",
    "pad_mult": "paddingBias",
    "repetition_penalty": "repetitionPenalty",
}
# Also names of `Configure`. A voice is named after its file.
_PROMPTS: Final[dict[str, str]] = {"voice_prompt": "voice", "text_prompt": "role"}
_VOICE_SUFFIX: Final = ".pt"
_SEED_FACTOR: Final = 1_000_003


class QueryError(Exception):
    """A parameter of the URL is not a number, or out of range; the message names it."""


@dataclass(frozen=True, slots=True)
class Query:
    """What was asked for. `prompts` has the names of a voice and a role that `request` leaves out."""

    request: Configure | None = None
    prompts: tuple[str, ...] = ()


def read_query(query: Mapping[str, str], *, takes_prompts: bool) -> Query:
    """Read the parameters; those that are unknown or empty are ignored.

    `takes_prompts`: the model takes a voice and a role.

    Raises:
        QueryError: one is not a number, or out of range.
    """
    fields: dict[str, Any] = {
        theirs: _number(ours, query[ours]) for ours, theirs in _SAMPLING.items() if query.get(ours)
    }
    seed = _seed(query)
    if seed is not None:
        fields["seed"] = seed
    prompts = {name: query[name].strip() for name in _PROMPTS if query.get(name, "").strip()}
    if takes_prompts:
        fields |= {_PROMPTS[name]: text.removesuffix(_VOICE_SUFFIX) for name, text in prompts.items()}
    try:
        request = from_fields(Configure, fields, "") if fields else None
    except FieldError as error:
        wire = {wire: name for name, wire in (_SAMPLING | _PROMPTS).items()}
        name = wire.get(error.path.removeprefix("."), "seed")
        raise QueryError(f"{name} {error.problem}") from None
    return Query(request, () if takes_prompts else tuple(prompts))


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
