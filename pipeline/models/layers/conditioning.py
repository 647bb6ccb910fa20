"""Conditions of a model, summed into one vector that is added to the input of every step.

Hibiki, for one, is conditioned on the quality of its voice. A condition's value is looked up in
a narrow table and projected to the model's width; the conditions that a config's `fuser` lists
under `sum` are added up. Classifier-free guidance takes a second vector, of the null conditions,
and moves the logits away from what follows from it (`lm`). All of this is computed when a model
is loaded.
Source: behaviour of the `moshi` package (`conditioners/`, `run_inference.py`).
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

import mlx.core as mx
import msgspec
from mlx import nn

from pipeline.errors import ConfigError

Shape = tuple[int, ...]
Count = Annotated[int, msgspec.Meta(ge=1)]

PREFIX: Final = "condition_provider.conditioners."
# The value that each condition has in every session, and the one that guidance moves away from.
_DEFAULTS: Final[Mapping[str, str]] = {"description": "very_good"}
_NULL_VALUES: Final[Mapping[str, str]] = {"description": "very_bad"}


class LutConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A condition with one of `possible_values` or, without them, any text, which is hashed.

    n_bins: values that the table has rows for; one more row stands for no value.
    dim: width of the table.
    """

    n_bins: Count
    dim: Count
    tokenizer: Literal["noop"] = "noop"
    possible_values: tuple[str, ...] | None = None
    learn_padding: bool = True
    init_scale: float = 1.0

    def row(self, value: str) -> int:
        """The row of the table for `value`."""
        if self.possible_values is None:
            return int.from_bytes(hashlib.sha256(value.encode()).digest(), "big") % self.n_bins
        return self.possible_values.index(value)

    def accepts(self, value: str) -> bool:
        """Whether `value` is a possible value."""
        return self.possible_values is None or value in self.possible_values


def parse_conditioners(raw: object) -> dict[str, LutConfig]:
    """The `conditioners` of a config.json, by name.

    Raises:
        ConfigError: one is of an unsupported type, mistyped, or has no known default value.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError("conditioners", "expected an object")
    conditioners = {}
    for name, given in raw.items():
        key = f"conditioners.{name}"
        kind = given.get("type") if isinstance(given, Mapping) else None
        if kind != "lut":
            raise ConfigError(f"{key}.type", f"{kind!r} is not supported, only 'lut' is")
        try:
            conditioner = msgspec.convert(given.get("lut"), LutConfig)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{key}.lut", str(error)) from None
        if len(conditioner.possible_values or ()) > conditioner.n_bins:
            raise ConfigError(f"{key}.lut.possible_values", f"more than n_bins, {conditioner.n_bins}")
        default = _DEFAULTS.get(name)
        if default is None or not conditioner.accepts(default):
            raise ConfigError(key, "no default value is known for this condition")
        conditioners[name] = conditioner
    return conditioners


def parse_fuser(raw: object, conditioners: Mapping[str, LutConfig]) -> tuple[str, ...]:
    """The names of the conditions that are added to the model's input.

    Raises:
        ConfigError: conditions enter in another way, or are not among `conditioners`.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError("fuser", "expected an object")
    for key, value in raw.items():
        if key in ("cross", "prepend") and value:
            raise ConfigError(f"fuser.{key}", "conditions that are not simply added are not supported")
        if key not in ("sum", "cross", "prepend", "cross_attention_pos_emb", "cross_attention_pos_emb_scale"):
            raise ConfigError(f"fuser.{key}", "not a key that this implementation knows")
    summed: Any = raw.get("sum") or ()
    for name in summed:
        if name not in conditioners:
            raise ConfigError("fuser.sum", f"{name} is not among the conditioners")
    return tuple(summed)


def condition_tensors(conditioners: Mapping[str, LutConfig], dim: int) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of the conditions' weights, the same in every published layout."""
    for name, conditioner in conditioners.items():
        yield f"{PREFIX}{name}.embed.weight", (conditioner.n_bins + 1, conditioner.dim)
        yield f"{PREFIX}{name}.output_proj.weight", (dim, conditioner.dim)
        if conditioner.learn_padding:
            yield f"{PREFIX}{name}.learnt_padding", (1, 1, dim)


class LutConditioner(nn.Module):
    """One condition: a lookup table from a value to a vector."""

    def __init__(self, config: LutConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.dim = dim
        self.embed = nn.Embedding(config.n_bins + 1, config.dim)
        self.output_proj = nn.Linear(config.dim, dim, bias=False)
        if config.learn_padding:
            self.learnt_padding = mx.zeros((1, 1, dim))

    def __call__(self, value: str | None) -> mx.array:
        """`[1, 1, D]` float32; None, no value, gives a learnt vector of its own, or zeros."""
        if value is not None:
            row = self.embed(mx.array([[self.config.row(value)]])).astype(mx.float32)  # [1, 1, dim]
            vector: mx.array = self.output_proj(row)
            return vector.astype(mx.float32)
        null: mx.array = self.learnt_padding if self.config.learn_padding else mx.zeros((1, 1, self.dim))
        return null.astype(mx.float32)


class ConditionProvider(nn.Module):
    """All conditions of one model and their sums, which are constants."""

    def __init__(self, conditioners: Mapping[str, LutConfig], summed: tuple[str, ...], dim: int) -> None:
        super().__init__()
        self.conditioners = {name: LutConditioner(config, dim) for name, config in conditioners.items()}
        self.summed = summed

    def condition(self) -> mx.array:
        """`[1, 1, D]` float32: the sum of the default values."""
        return self._sum({name: _DEFAULTS[name] for name in self.summed})

    def null_condition(self) -> mx.array:
        """`[1, 1, D]` float32: the sum of the values that guidance moves away from."""
        values = {}
        for name in self.summed:
            null = _NULL_VALUES[name]
            values[name] = null if self.conditioners[name].config.accepts(null) else None
        return self._sum(values)

    def _sum(self, values: Mapping[str, str | None]) -> mx.array:
        vectors = [self.conditioners[name](value) for name, value in values.items()]
        total = vectors[0]
        for vector in vectors[1:]:
            total = total + vector
        return total
