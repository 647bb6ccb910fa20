"""Sums in writing alone: answers without their sound, as many in a step as hours of talk would bring.

A session of 24 s has four sums in 300 steps; written down, at the distances at which words
follow each other, there are four in 90. What is learnt here of numbers, pairs that were
never shown included, is what the text of a session goes on with. No held-out pair is among them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.train.architecture import MoshiSizes
from pipeline.train.phrases import LARGEST_OPERAND, arithmetic_answer, held_out_pairs

_STEPS: Final = 23
_FIRST: Final = 2  # steps before the first word, at most
_APART: Final = 4  # steps from word to word, at most
_PERIODS: Final = (2.0, 4.0, 5.0, 10.0, 20.0, 80.0)
_LEAST: Final = -LARGEST_OPERAND
_MOST: Final = 2 * LARGEST_OPERAND
_CIRCLES_WEIGHT: Final = 2.0


@dataclass(frozen=True, slots=True)
class Drill:
    """By steps, all `[B, T]`: `text`; which of it is `asked`; `results`, and where they can be `known`."""

    text: Tensor
    asked: Tensor
    results: Tensor
    known: Tensor


class Amount(nn.Module):
    """A result, told from the model's state as an amount and as places on circles; used in training only.

    Numbers as rotations are what small networks come to add with. Source: Nanda et al. 2023,
    "Progress measures for grokking via mechanistic interpretability".
    """

    periods: Tensor
    limits: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("periods", torch.tensor(_PERIODS), persistent=False)
        self.register_buffer("limits", torch.arange(_LEAST, _MOST) + 0.5, persistent=False)
        self.linear = nn.Linear(dim, 2 * len(_PERIODS) + _MOST - _LEAST)

    def loss(self, context: Tensor, results: Tensor) -> Tensor:
        """`context [N, D]` and `results [N]` → how wrong it is, 0 where there are none."""
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
    """Every answer that training has, by its words' tokens."""

    def __init__(self, numbers: Mapping[str, int], sizes: MoshiSizes, device: torch.device) -> None:
        self.sizes, self.device = sizes, device
        operands = range(LARGEST_OPERAND + 1)
        unseen = held_out_pairs()
        sums = [
            (arithmetic_answer(kind, a, b).split(), a + b if kind == "sum" else a - b)
            for kind in ("sum", "difference")
            for a in operands
            for b in operands
            if (a, b) not in unseen
        ]
        longest = max(len(words) for words, _ in sums)
        rows = np.full((len(sums), longest), sizes.padding)
        for row, (words, _) in zip(rows, sums, strict=True):
            row[: len(words)] = [numbers[word] for word in words]
        self.words = torch.from_numpy(rows).to(device)
        self.results = torch.tensor([float(result) for _, result in sums], device=device)
        self.equals = torch.tensor([words.index("is") for words, _ in sums], device=device)

    def draw(self, count: int) -> Drill:
        """So many answers, each word some steps after the one before."""
        which = torch.randint(len(self.words), (count,), device=self.device)
        words, equals = self.words[which], self.equals[which]
        steps = torch.randint(1, _APART + 1, words.shape, device=self.device)
        steps[:, 0] = torch.randint(0, _FIRST + 1, (count,), device=self.device)
        at = steps.cumsum(1).clamp(max=_STEPS - 1)
        text = torch.full((count, _STEPS), self.sizes.padding, device=self.device)
        is_word = words != self.sizes.padding
        rows = torch.arange(count, device=self.device)[:, None].expand_as(at)
        text[rows[is_word], at[is_word]] = words[is_word]
        after = torch.arange(_STEPS, device=self.device) > at.gather(1, equals[:, None])
        asked = after & (text != self.sizes.padding)
        return Drill(text, asked, self.results[which][:, None].expand(-1, _STEPS), after)

    def given(self, drill: Drill) -> Tensor:
        """`[B, 1 + n_q, T]`: what the steps of a drill are given, no sound at all."""
        given = drill.text.new_full((len(drill.text), 1 + self.sizes.n_q, _STEPS), -1)
        given[:, 0, 0] = self.sizes.padding
        given[:, 0, 1:] = drill.text[:, :-1]
        return given
