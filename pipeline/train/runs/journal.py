"""A run that can be stopped at any time: its state in a checkpoint, its figures in a log.

A command called again goes on from its last checkpoint; killed, it loses the minutes since.
Figures are JSON lines, appended; the same line is printed.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

REPORT_EVERY: Final = 50  # steps
_WARM_UP_STEPS: Final = 200
_COOLING: Final = 0.25  # of a run, at its end


@dataclass
class Journal:
    """One run's folder. `minutes`: how long this call may take, 0 for as long as it needs.

    `finish`: whether the run ends with them, however few its steps were.
    """

    folder: Path
    name: str
    minutes: float = 0.0
    finish: bool = False
    save_every_s: float = 180.0
    step: int = 0
    _sums: dict[str, Tensor] = field(default_factory=dict)
    _added: int = 0
    _began_s: float = field(default_factory=time.monotonic)
    _saved_s: float = field(default_factory=time.monotonic)

    @property
    def checkpoint(self) -> Path:
        """Where everything is that is needed to go on."""
        return self.folder / f"{self.name}.pt"

    def resume(self, parts: dict[str, nn.Module | Optimizer], device: torch.device) -> bool:
        """Load the last checkpoint, if there is one."""
        if not self.checkpoint.is_file():
            return False
        saved = torch.load(self.checkpoint, map_location=device, weights_only=True)
        for name, part in parts.items():
            if name in saved["parts"]:  # an adversary may join a run that began without
                part.load_state_dict(saved["parts"][name])
        self.step = saved["step"]
        return True

    def save(self, parts: dict[str, nn.Module | Optimizer]) -> None:
        """Write a checkpoint, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(
            {"step": self.step, "parts": {name: part.state_dict() for name, part in parts.items()}}, partial
        )
        partial.replace(self.checkpoint)
        self._saved_s = time.monotonic()

    def save_in_time(self, parts: dict[str, nn.Module | Optimizer]) -> None:
        """Write a checkpoint if the last one is some minutes old."""
        if time.monotonic() - self._saved_s > self.save_every_s:
            self.save(parts)

    @property
    def elapsed_s(self) -> float:
        """How long this call has taken."""
        return time.monotonic() - self._began_s

    @property
    def out_of_time(self) -> bool:
        """Whether this call has taken the minutes it was given."""
        return bool(self.minutes) and self.elapsed_s > 60 * self.minutes

    def progress(self, steps: int) -> float:
        """How much of the run is done: of its steps, or, if it is to finish in this call, of its time."""
        of_time = self.elapsed_s / (60 * self.minutes) if self.minutes and self.finish else 0.0
        return min(1.0, max(self.step / steps, of_time))

    def schedule(self, optimizer: Optimizer, peak: float, steps: int) -> None:
        """Set the learning rate of the next step."""
        rate = learning_rate(peak, self.step, self.progress(steps))
        for group in optimizer.param_groups:
            group["lr"] = rate

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Remember a step's figures, on the device: to read them would be to wait for it."""
        for name, value in figures.items():
            before = self._sums.get(name)
            self._sums[name] = value.detach() if before is None else before + value.detach()
        self._added += 1

    @property
    def reports(self) -> bool:
        """Whether this is a step after which to log."""
        return self.step % REPORT_EVERY == 0

    def means(self) -> dict[str, float]:
        """Of the figures added since the last report."""
        means = {name: value.item() / self._added for name, value in self._sums.items()}
        self._sums, self._added = {}, 0
        return means

    def log(self, **figures: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
        """One line of figures."""
        rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in figures.items()}
        line = json.dumps(
            {"run": self.name, "step": self.step, "elapsed_s": round(self.elapsed_s, 1), **rounded}
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{self.name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)


def add_run_arguments(parser: argparse.ArgumentParser, *, batch: int, rate: float) -> None:
    """The arguments that all training commands share."""
    parser.add_argument("--corpus", metavar="DIR", type=Path, required=True)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where its checkpoint is")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=0.0, help="stop, resumable, after so long")
    parser.add_argument("--finish", action="store_true", help="let the run end with --minutes")
    parser.add_argument("--batch", type=int, default=batch, help=f"default {batch}; 64 and more on a card")
    parser.add_argument("--rate", type=float, default=rate, help=f"peak learning rate (default {rate:g})")
    parser.add_argument("--seed", type=int, default=1)


def learning_rate(peak: float, step: int, progress: float) -> float:
    """Up over the first steps, level, and down to nothing over the last quarter of `progress`, 0 to 1."""
    rising = min(1.0, (step + 1) / _WARM_UP_STEPS)
    cooling = min(1.0, max(0.0, (1 - progress) / _COOLING))
    return peak * rising * cooling
