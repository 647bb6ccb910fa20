"""Fuses a LoRA adapter into the weights of its base model, so that a step takes no longer.

W' = W + scaling · B · A (Hu et al. 2021), for every linear layer that the adapter has a pair for.
Other tensors of an adapter file replace the weight of that name. Names are those of the official
package (`modules/lora.py`), whichever layout the weights themselves are in.
"""

import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import msgspec

from pipeline.errors import ConfigError
from pipeline.models.checkpoint.formats import read
from pipeline.models.checkpoint.lm_config import LmConfig
from pipeline.models.checkpoint.lm_key_map import detect_layout, lm_rules, unused_rules
from pipeline.models.checkpoint.loading import Rule, load_parameters, match
from pipeline.models.checkpoint.safetensors_header import Shape

_PAIR: Final = re.compile(r"(.+)\.lora_[AB]\.weight")


class _Keys(msgspec.Struct, frozen=True, kw_only=True):
    lora: bool | None = None
    lora_name: str | None = None
    lora_rank: int = 128
    lora_scaling: float = 2.0


@dataclass(frozen=True, slots=True)
class Lora:
    """One adapter: its file, the rank of its pairs, and the factor by which they are scaled."""

    path: Path
    rank: int
    scaling: float

    def check(self, config: LmConfig, parameters: Mapping[str, Shape]) -> None:
        """Raise what `fuse` would, having read the file's header only."""
        expected, rules = self._expected(config, parameters)
        match(self.path, read(self.path), expected, rules)

    def fuse(self, config: LmConfig, weights: MutableMapping[str, mx.array]) -> None:
        """Update the `weights` that the adapter changes, by name; their dtype stays.

        Raises:
            WeightsError: the file is damaged, or not an adapter for these weights.
        """
        expected, rules = self._expected(config, {name: weight.shape for name, weight in weights.items()})
        adapter = dict(load_parameters(self.path, expected, rules, mx.float32))
        for name, tensor in adapter.items():
            pair = _PAIR.fullmatch(name)
            if pair is None:
                weights[name] = tensor.astype(weights[name].dtype)
                mx.eval(weights[name])
            elif name.endswith(".lora_B.weight"):
                base = f"{pair[1]}.weight"
                update = self.scaling * (tensor @ adapter[f"{pair[1]}.lora_A.weight"])
                weights[base] = (weights[base].astype(mx.float32) + update).astype(weights[base].dtype)
                mx.eval(weights[base])

    def _expected(
        self, config: LmConfig, parameters: Mapping[str, Shape]
    ) -> tuple[dict[str, Shape], list[Rule]]:
        """The tensors that the file should hold, by the names in it, and the rules that apply to it."""
        header = read(self.path)
        rules = [*_pair_rules(config), *lm_rules(config, detect_layout(header))]
        used: list[Rule] = []
        expected: dict[str, Shape] = {}
        for name in header:
            rule, targets = next(
                ((rule, found) for rule in rules if (found := rule.targets(name)) is not None), (None, [name])
            )
            if rule is not None and rule not in used:
                used.append(rule)
            for target in targets:
                pair = _PAIR.fullmatch(target)
                shape = parameters.get(f"{pair[1]}.weight" if pair else target)
                if pair and shape is not None and len(shape) == 2:
                    expected[f"{pair[1]}.lora_A.weight"] = (self.rank, shape[1])
                    expected[f"{pair[1]}.lora_B.weight"] = (shape[0], self.rank)
                elif not pair and shape is not None:
                    expected[target] = shape
        return expected, used


def _pair_rules(config: LmConfig) -> list[Rule]:
    needed = max(config.weight_sets) + 1
    sets = needed + (config.unused_slices if config.depformer_weights_per_step else 0)
    unnumbered = "transformer" if config.depformer_weights_per_step else "transformer|depformer"
    pair = r"(lora_[AB]\.weight)"
    return [
        *unused_rules(config, "split"),
        Rule(rf"((?:{unnumbered})\.layers\.\d+\.gating)\.(linear_\w+)\.{pair}", r"\1.0.\2.\3"),
        *(
            Rule(
                rf"({module}\.layers\.\d+\.self_attn)\.(in|out)_proj\.{pair}",
                r"\1.\2_projs.{part}.\3",
                parts=parts,
                kept=kept,
            )
            for module, parts, kept in (("transformer", 1, 1), ("depformer", sets, needed))
        ),
    ]


def parse_lora(raw: Mapping[str, Any], folder: Path) -> Lora | None:
    """The adapter that a config.json names, in `folder`; None if it names none.

    Raises:
        ConfigError: its keys are mistyped, or contradict each other.
    """
    try:
        keys = msgspec.convert({k: v for k, v in raw.items() if v is not None}, _Keys)
    except msgspec.ValidationError as error:
        problem, _, at = str(error).partition(" - at `$.")
        raise ConfigError(at.rstrip("`"), problem) from None
    if keys.lora_name and keys.lora is False:
        raise ConfigError("lora", f"false, although lora_name names {keys.lora_name}")
    if keys.lora and not keys.lora_name:
        raise ConfigError("lora_name", "missing, although lora is true")
    if keys.lora_rank < 1:
        raise ConfigError("lora_rank", f"{keys.lora_rank} is less than 1")
    if not keys.lora_name:
        return None
    return Lora(folder / keys.lora_name, keys.lora_rank, keys.lora_scaling)
