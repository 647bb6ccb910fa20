"""Encoded conversations on the device, drawn a batch at a time; `encode` may still be writing more."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.train.runs.checkpoints import RunError


class Sessions:
    """All encoded files of a folder, on the device; `refresh` reads new ones."""

    def __init__(self, folder: Path, pattern: str, device: torch.device) -> None:
        self.folder, self.pattern, self.device = folder, pattern, device
        self.names: set[str] = set()
        self.rows: dict[str, Tensor] = {}

    def refresh(self) -> bool:
        """Read new files; returns whether there were any.

        Raises:
            RunError: there is none.
        """
        new = [path for path in sorted(self.folder.glob(self.pattern)) if path.name not in self.names]
        for path in new:
            with np.load(path) as file:
                for name in file.files:
                    row = torch.from_numpy(file[name]).to(self.device)
                    self.rows[name] = torch.cat([self.rows[name], row]) if name in self.rows else row
            self.names.add(path.name)
        if not self.names:
            raise RunError(f"{self.folder} has no {self.pattern}: python -m pipeline.train.encode makes it")
        return bool(new)

    def draw(self, batch: int) -> dict[str, Tensor]:
        """Some of them, shifted to the grid of training: the first frame of the user only primes."""
        which = torch.randint(len(self.rows["text"]), (batch,), device=self.device)
        return self.of(which)

    def of(self, which: Tensor) -> dict[str, Tensor]:
        """The sessions `which [B]`: `codes [B, 1 + n_q, T]`, and the others `[B, T]`.

        Those are `speaking`, `slips`, `user_words` and `results`.
        """
        rows = {name: row[which] for name, row in self.rows.items()}
        codes = torch.cat([rows["text"][:, None, :-1], rows["agent"][..., :-1], rows["user"][..., 1:]], 1)
        return {
            "codes": codes.long(),
            "speaking": rows["speaking"][:, :-1],
            "slips": rows["slips"][:, :-1],
            "user_words": rows["heard"][:, :-1].long(),
            "results": rows["results"][:, :-1].float(),
        }
