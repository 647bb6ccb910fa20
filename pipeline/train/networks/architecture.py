"""The sizes of the two networks, read from the very files that will be served.

A trainer has PyTorch and no MLX, so what `pipeline.models` reads strictly is read here in
part; `export` has it read strictly.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.units import FRAME_SAMPLES

RECIPE: Final = Path(__file__).parents[1] / "recipe"


@dataclass(frozen=True, slots=True)
class TransformerSizes:
    """A stack of causal layers; `context` counts the positions a query attends to."""

    dim: int
    heads: int
    layers: int
    feedforward: int
    context: int
    max_period: float


@dataclass(frozen=True, slots=True)
class MimiSizes:
    """The codec: `ratios` in the decoder's order, `codebooks` of `bins` centroids."""

    dim: int
    filters: int
    residual_layers: int
    ratios: tuple[int, ...]
    kernel: int
    residual_kernel: int
    last_kernel: int
    dilation_base: int
    compress: int
    transformer: TransformerSizes
    layer_scale: float
    codebooks: int
    bins: int
    code_dim: int

    @property
    def hop_samples(self) -> int:
        """Samples to one vector of features."""
        hop = 1
        for ratio in self.ratios:
            hop *= ratio
        return hop

    @property
    def positions(self) -> int:
        """Vectors of features in a frame."""
        return FRAME_SAMPLES // self.hop_samples


@dataclass(frozen=True, slots=True)
class MoshiSizes:
    """The language model; codebooks of the agent first, then of the user."""

    transformer: TransformerSizes
    depth: TransformerSizes
    text_card: int
    card: int
    n_q: int
    dep_q: int
    delays: tuple[int, ...]
    padding: int

    @property
    def user_q(self) -> int:
        """Codebooks of the user, which are inputs only."""
        return self.n_q - self.dep_q


def add_recipe_argument(parser: argparse.ArgumentParser) -> None:
    """`--recipe`: other sizes than those that are shipped."""
    parser.add_argument(
        "--recipe",
        metavar="DIR",
        type=Path,
        default=RECIPE,
        help="folder of the config.json and mimi_config.json to train (default: the shipped ones)",
    )


def _read(folder: Path, name: str) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return raw


def mimi_sizes(folder: Path) -> MimiSizes:
    """The codec's sizes, from `mimi_config.json`."""
    raw = _read(folder, "mimi_config.json")
    seanet, quantizer, transformer = raw["seanet"], raw["quantizer"], raw["transformer"]
    return MimiSizes(
        dim=seanet["dimension"],
        filters=seanet["n_filters"],
        residual_layers=seanet["n_residual_layers"],
        ratios=tuple(seanet["ratios"]),
        kernel=seanet["kernel_size"],
        residual_kernel=seanet["residual_kernel_size"],
        last_kernel=seanet["last_kernel_size"],
        dilation_base=seanet["dilation_base"],
        compress=seanet["compress"],
        transformer=TransformerSizes(
            dim=transformer["d_model"],
            heads=transformer["num_heads"],
            layers=transformer["num_layers"],
            feedforward=transformer["dim_feedforward"],
            context=transformer["context"],
            max_period=transformer["max_period"],
        ),
        layer_scale=transformer["layer_scale"],
        codebooks=quantizer["n_q"],
        bins=quantizer["bins"],
        code_dim=quantizer["dimension"],
    )


def moshi_sizes(folder: Path) -> MoshiSizes:
    """The language model's sizes, from `config.json`."""
    raw = _read(folder, "config.json")
    return MoshiSizes(
        transformer=TransformerSizes(
            dim=raw["dim"],
            heads=raw["num_heads"],
            layers=raw["num_layers"],
            feedforward=int(raw["hidden_scale"] * raw["dim"]),
            context=raw["context"],
            max_period=raw["max_period"],
        ),
        depth=TransformerSizes(
            dim=raw["depformer_dim"],
            heads=raw["depformer_num_heads"],
            layers=raw["depformer_num_layers"],
            feedforward=raw["depformer_dim_feedforward"],
            context=raw["dep_q"],
            max_period=raw["depformer_max_period"],
        ),
        text_card=raw["text_card"],
        card=raw["card"],
        n_q=raw["n_q"],
        dep_q=raw["dep_q"],
        delays=tuple(raw["delays"]),
        padding=raw["existing_text_padding_id"],
    )
