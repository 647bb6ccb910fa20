"""Text-only sums: answers without audio, many more per step than in sessions.

A session of 24 s has four sums in 300 steps; written down there are two in 64, one after the
other, their words as far apart as in sessions or nearer. Other distances do not transfer: with words
at most four steps apart and one sum in a row, unseen pairs were right in 68 cases of 100, and in
sessions in 37. No held-out pair is among them.

Beside the pairs that are asked about there are those of larger numbers, up to 49, which the
same words name. They are never asked for, but 2,893 more results make the model generalize to
unseen pairs.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.train.conversation.phrases import (
    LARGEST_OPERAND,
    LARGEST_WRITTEN,
    arithmetic_answer,
    held_out_pairs,
)
from pipeline.train.networks.architecture import MoshiSizes

_STEPS: Final = 64
_SUMS: Final = 2  # in a row
_BEFORE: Final = (3, 10)  # steps before the first sum, and between two, at most
_PACES: Final = (2, 7)  # steps from word to word at most, drawn for each row
_PERIODS: Final = (2.0, 4.0, 5.0, 10.0, 20.0, 80.0)
_LARGER_SHARE: Final = 0.375  # of sums, those with an operand larger than any question's
_CIRCLES_WEIGHT: Final = 2.0


@dataclass(frozen=True, slots=True)
class Drill:
    """By steps, all `[B, T]`: `text`; which of it is `asked`; `results`, and where they can be `known`."""

    text: Tensor
    asked: Tensor
    results: Tensor
    known: Tensor


class Amount(nn.Module):
    """Predicts a result from the model's state, by thresholds and by angles; used in training only.

    Numbers as rotations are what small networks come to add with. Source: Nanda et al. 2023,
    "Progress measures for grokking via mechanistic interpretability".
    """

    periods: Tensor
    limits: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("periods", torch.tensor(_PERIODS), persistent=False)
        self.register_buffer(
            "limits", torch.arange(-LARGEST_WRITTEN, LARGEST_WRITTEN) + 0.5, persistent=False
        )
        self.linear = nn.Linear(dim, 2 * len(_PERIODS) + 2 * LARGEST_WRITTEN)

    def loss(self, context: Tensor, results: Tensor) -> Tensor:
        """`context [N, D]` and `results [N]` → the loss, 0 where there are none."""
        if not len(results):
            return context.new_zeros(())
        circles, above = self.linear(context).float().tensor_split([2 * len(self.periods)], dim=-1)
        angles = 2 * torch.pi * results[:, None] / self.periods
        places = torch.cat([angles.cos(), angles.sin()], -1)
        larger = (results[:, None] > self.limits).float()
        return _CIRCLES_WEIGHT * functional.mse_loss(circles, places) + (
            functional.binary_cross_entropy_with_logits(above, larger)
        )


class Drills:
    """Every answer that training has, and those about larger numbers, by their words' tokens."""

    def __init__(self, numbers: Mapping[str, int], sizes: MoshiSizes, device: torch.device) -> None:
        self.sizes, self.device = sizes, device
        unseen = held_out_pairs()
        sums = [
            (arithmetic_answer(kind, a, b).split(), a + b if kind == "sum" else a - b)
            for a, b in sorted(itertools.product(range(LARGEST_WRITTEN + 1), repeat=2), key=max)
            for kind in ("sum", "difference")
            if (a, b) not in unseen and (kind == "difference" or a + b <= LARGEST_WRITTEN)
        ]
        longest = max(len(words) for words, _ in sums)
        rows = np.full((len(sums), longest), sizes.padding)
        for row, (words, _) in zip(rows, sums, strict=True):
            row[: len(words)] = [numbers[word] for word in words]
        self.asked = 2 * ((LARGEST_OPERAND + 1) ** 2 - len(unseen))  # the first so many are
        self.words = torch.from_numpy(rows).to(device)
        self.results = torch.tensor([float(result) for _, result in sums], device=device)
        self.equals = torch.tensor([words.index("is") for words, _ in sums], device=device)

    def draw(self, rows: int) -> Drill:
        """So many rows of answers one after the other, each word some steps after the one before."""
        device, shape = self.device, (rows, _SUMS)
        larger = torch.rand(shape, device=device) < _LARGER_SHARE
        which = torch.where(
            larger,
            torch.randint(self.asked, len(self.words), shape, device=device),
            torch.randint(self.asked, shape, device=device),
        )
        words = self.words[which]  # [B, sums, longest]
        pace = torch.randint(*_PACES, (rows, 1, 1), device=device)
        steps = 1 + (torch.rand(words.shape, device=device) * pace).long()
        for index, most in enumerate(_BEFORE):
            steps[:, index, 0] = torch.randint(1, most + 1, (rows,), device=device)
        steps = steps * (words != self.sizes.padding)  # what is not there takes no time
        at = steps.flatten(1).cumsum(1).view(words.shape) - 1
        written = (words != self.sizes.padding) & (at < _STEPS)
        row = torch.arange(rows, device=device)[:, None, None].expand_as(at)
        text = torch.full((rows, _STEPS), self.sizes.padding, device=device)
        text[row[written], at[written]] = words[written]
        equals = at.gather(2, self.equals[which][..., None])  # [B, sums, 1]
        follows = torch.cat([at[:, 1:, :1], torch.full_like(at[:, :1, :1], _STEPS)], 1)
        step = torch.arange(_STEPS, device=device)
        of_each = (step > equals) & (step < follows)  # [B, sums, T]
        results = (of_each * self.results[which][..., None]).sum(1)
        known = of_each.any(1)
        return Drill(text, known & (text != self.sizes.padding), results, known)

    def inputs(self, drill: Drill) -> Tensor:
        """`[B, 1 + n_q, T]`: the inputs of a drill's steps, without audio."""
        inputs = drill.text.new_full((len(drill.text), 1 + self.sizes.n_q, _STEPS), -1)
        inputs[:, 0, 0] = self.sizes.padding
        inputs[:, 0, 1:] = drill.text[:, :-1]
        return inputs
