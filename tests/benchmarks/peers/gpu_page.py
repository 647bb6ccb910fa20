"""The results of a GPU run as Markdown: medians and 99th percentiles, the floor, ratios within a round."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final, Protocol

import numpy as np

from pipeline.diagnostics.cost_model import step_cost
from pipeline.models.checkpoint.lm_config import LmConfig, parse_lm_config
from pipeline.models.quantization import PUBLISHED_GROUPS
from pipeline.percentiles import percentile

PEER: Final = "PyTorch bf16"
_HEAD: Final = (
    "", "lanes", "encode p50 / p99", "step p50 / p99", "decode p50 / p99", "all three p99",
    "step, full rings", "floor, empty–full", "tokens/s", "memory GB", "ready s", "step ÷ PyTorch",
)  # fmt: skip


class Results(Protocol):
    """The results of one contender."""

    about: dict[str, Any]
    rounds: list[dict[int, dict[str, Any]]]
    cannot: list[str]


def number_bytes(weights: str) -> float:
    """Memory of one number of a weight, with its part of the scales and biases of its group."""
    if weights == "bf16":
        return 2
    bits = int(weights[1:])
    return bits / 8 + 2 * 2 / PUBLISHED_GROUPS[bits]


def floor_ms(lm: LmConfig, weights: str, width: int, bytes_per_s: float, *, full: bool) -> float:
    """The time to read every weight once and, if `full`, the full caches of all lanes."""
    rings = 2 * lm.num_layers * lm.transformer.num_kv_heads * lm.transformer.head_dim * lm.context * 2
    size_bytes = step_cost(lm).weights * number_bytes(weights) + (width * rings if full else 0)
    return 1000 * size_bytes / bytes_per_s


def together(rounds: list[dict[str, Any]], stage: str, what: str = "ms") -> list[float]:
    """The times of all rounds."""
    return [ms for each in rounds for ms in each[what][stage]]


def over_peer(mine: Results, peer: Results, width: int) -> float | None:
    """The median, over the rounds that both ran, of one's median step ÷ the other's."""
    both = [
        (one[width], other[width])
        for one, other in zip(mine.rounds, peer.rounds, strict=False)
        if width in one and width in other
    ]
    if not both:
        return None
    return median(median(one["ms"]["step"]) / median(other["ms"]["step"]) for one, other in both)


def rows(contenders: Mapping[str, Results], lm: LmConfig, bytes_per_s: float) -> Iterator[list[str]]:
    """The table's lines of one size."""
    for name, results in contenders.items():
        weights = name.rpartition(" ")[2]
        for width in sorted({width for each in results.rounds for width in each}):
            rounds = [each[width] for each in results.rounds if width in each]
            stages = {stage: together(rounds, stage) for stage in ("encode", "step", "decode")}
            whole = np.sum([*stages.values()], axis=0)
            step_ms = median(stages["step"])
            floors = [floor_ms(lm, weights, width, bytes_per_s, full=full) for full in (False, True)]
            ratio = None if name == PEER else over_peer(results, contenders[PEER], width)
            yield [
                name,
                str(width),
                *(f"{median(ms):.2f} / {percentile(ms, 99):.2f}" for ms in stages.values()),
                f"{percentile(whole, 99):.2f}",
                f"{median(together(rounds, 'step', 'full_ms')):.2f}",
                f"{floors[0]:.2f}–{floors[1]:.2f}",
                f"{1000 * width * (1 + lm.dep_q) / step_ms:.0f}",
                f"{max(each['memory_bytes'] for each in rounds) / 1e9:.2f}",
                f"{median([each['ready_s'] for each in rounds]):.1f}",
                "—" if ratio is None else f"{ratio:.2f}",
            ]


def gpu_page(
    results: Mapping[str, Mapping[str, Results]],
    shapes: Mapping[str, Mapping[str, Any]],
    bytes_per_s: float,
    device: str,
) -> str:
    """The complete page."""
    day = dt.datetime.now(dt.UTC).date().isoformat()
    paragraphs = [[f"{day}, {device}, which reads and writes {bytes_per_s / 1e9:.0f} GB/s. Milliseconds."]]
    for size, contenders in results.items():
        lm = parse_lm_config(dict(shapes[size]))
        body = [_line(cells) for cells in rows(contenders, lm, bytes_per_s)]
        paragraphs += [[f"**{size}**"], [_line(_HEAD), _line(["---"] * len(_HEAD)), *body]]
        abouts = [f"- {name}: {_about(each.about)}" for name, each in contenders.items() if each.about]
        absences = [f"- {name}: {why}" for name, each in contenders.items() for why in each.cannot]
        paragraphs += [[*abouts, *absences]]
    return "\n\n".join("\n".join(lines) for lines in paragraphs if lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _about(about: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in about.items() if value)
