"""From the times of all rounds to a table: medians, their spread, ratios within the same round, the floor."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.peers.cases import (
    CONTENDERS,
    OURS,
    SIZES,
    STAGES,
    STORED,
    VARIANTS,
    WIDTHS,
    Case,
    Stored,
    ggml_in,
    ours_in,
)
from benchmarks.peers.codec_cost import decode_cost, encode_cost
from benchmarks.peers.material import MIMI
from benchmarks.peers.rounds import CODEBOOKS, Rates, Run

from pipeline.diagnostics.cost_model import Cost, step_cost
from pipeline.models.checkpoint.lm_config import parse_lm_config

NUMBER_BYTES: Final = 4  # float32
_STORED_AS: Final = {contender.name: contender.stored for contender in CONTENDERS}
_FORMATS: Final[tuple[Stored, ...]] = ("float32", *STORED)
_WIDE: Final = (8, WIDTHS[-1])


@dataclass(frozen=True, slots=True)
class Cell:
    """One contender's median milliseconds in each round."""

    rounds_ms: tuple[float, ...]

    @property
    def ms(self) -> float:
        """The median of the rounds' medians."""
        return median(self.rounds_ms)

    def over(self, other: "Cell") -> float:
        """The median, over the rounds, of this one's time ÷ the other's in the same round."""
        return median(mine / theirs for mine, theirs in zip(self.rounds_ms, other.rounds_ms, strict=True))


@dataclass(frozen=True, slots=True)
class Row:
    """One stage at one width, with the time to read all weights and that of all operations."""

    case: str
    stage: str
    width: int
    cells: Mapping[str, Cell]
    reading_ms: float
    arithmetic_ms: float

    @property
    def floor_ms(self) -> float:
        """A lower bound for any float32 implementation on this machine."""
        return max(self.reading_ms, self.arithmetic_ms)

    @property
    def best_peer(self) -> str | None:
        """The fastest other contender with weights of float32."""
        peers = {
            name: cell.ms
            for name, cell in self.cells.items()
            if name not in {OURS, *VARIANTS} and _STORED_AS.get(name, "float32") == "float32"
        }
        return min(peers, key=peers.__getitem__) if peers else None

    @property
    def ratio(self) -> float | None:
        """Our time ÷ the best peer's."""
        peer = self.best_peer
        return None if peer is None or OURS not in self.cells else self.cells[OURS].over(self.cells[peer])


def works(case: Case) -> Mapping[str, Cost]:
    """The cost of each stage of a case: a lower bound for any implementation."""
    lm = parse_lm_config(SIZES[case.size])
    stages = {"encode": encode_cost(MIMI, CODEBOOKS), "step": step_cost(lm), "decode": decode_cost(MIMI)}
    if case.kind == "products":
        return {"products": stages["step"]}
    if case.kind == "chain":
        weights, flop = (sum(getattr(w, what) for w in stages.values()) for what in ("weights", "flop"))
        return {"all": Cost(weights, flop)}
    return {stage: stages[stage] for stage in STAGES[case.kind]}


def rows_of(case: Case, runs: Mapping[str, Run], rates: Rates) -> Iterator[Row]:
    """A row for each stage and width that any contender ran."""
    most = max(len(run.ms) for run in runs.values())
    for stage, work in works(case).items():
        for width in WIDTHS:
            cells = {}
            for name, run in runs.items():
                rounds = [r[stage][width] for r in run.ms if width in r.get(stage, {})]
                if len(rounds) == most > 0:  # ratios need every round
                    cells[name] = Cell(tuple(median(ms) for ms in rounds))
            if cells:
                reading_ms = 1000 * work.weights * NUMBER_BYTES / rates.read_bytes_per_s
                arithmetic_ms = 1000 * width * work.flop / rates.flop_per_s
                yield Row(case.name, stage, width, cells, reading_ms, arithmetic_ms)


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "—"
    low, high = min(cell.rounds_ms), max(cell.rounds_ms)
    spread = f" ({_number(low)}–{_number(high)})" if len(cell.rounds_ms) > 1 else ""
    return _number(cell.ms) + spread


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def times_table(rows: Sequence[Row]) -> list[str]:
    """Milliseconds of one frame of the whole batch, as Markdown."""
    names = [c.name for c in CONTENDERS if any(c.name in row.cells for row in rows)]
    head = ["", "lanes", *names, "ours ÷ best peer", "floor", "ours ÷ floor"]
    lines = [_cells(head), _cells(["---"] * len(head))]
    for row in rows:
        ours = row.cells.get(OURS)
        ratio = "—" if row.ratio is None else f"{row.ratio:.2f}"
        above = "—" if ours is None else f"{ours.ms / row.floor_ms:.1f}"
        title = row.stage if row.case in {"mimi", "chain"} else f"{row.stage} `{row.case}`"
        title = (
            "whole pipeline" if title == "all" else "whole pipeline, `mid`" if row.stage == "all" else title
        )
        times = [_cell(row.cells.get(name)) for name in names]
        lines.append(_cells([title, str(row.width), *times, ratio, _number(row.floor_ms), above]))
    return lines


def lanes_table(rows: Sequence[Row]) -> list[str]:
    """The time of the wide batches ÷ that of one lane, for each contender that ran both."""
    wide = [row for row in rows if row.width in _WIDE]
    names = [c.name for c in CONTENDERS if any(c.name in row.cells for row in wide)]
    if not wide:
        return []
    head = ["÷ one lane", "lanes", *names]
    lines = [_cells(head), _cells(["---"] * len(head))]
    for row in wide:
        alone = next(r for r in rows if (r.case, r.stage, r.width) == (row.case, row.stage, 1))
        both = {
            name: row.cells[name].over(alone.cells[name])
            for name in names
            if name in row.cells and name in alone.cells
        }
        cells = [f"{both[name]:.1f}" if name in both else "—" for name in names]
        lines.append(_cells([f"{row.stage} ({row.case})", str(row.width), *cells]))
    return lines


def formats_table(rows: Sequence[Row]) -> list[str]:
    """Our time with weights of each format ÷ that with float32, and ÷ that of GGML with the same format."""
    lines = []
    for row in rows:
        for about, names in (
            ("÷ our float32", dict.fromkeys(_FORMATS, OURS)),
            ("÷ GGML, the same format", {stored: ggml_in(stored) for stored in _FORMATS}),
        ):
            ratios = [
                row.cells[ours_in(stored)].over(row.cells[name])
                if {ours_in(stored), name} <= row.cells.keys()
                else None
                for stored, name in names.items()
            ]
            if any(ratios[1:]):
                cells = ["—" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
                lines.append(_cells([f"{row.stage} ({row.case}) {about}", str(row.width), *cells]))
    head = ["ours", "lanes", *_FORMATS]
    return [_cells(head), _cells(["---"] * len(head)), *lines] if lines else []
