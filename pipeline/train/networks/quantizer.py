"""The split residual quantizer: centroids are running means, and unused ones are reset.

Codebooks are not trained by gradients. Source: van den Oord et al. 2017, "Neural discrete
representation learning", appendix A; Défossez et al. 2024, "Moshi", section 3.3.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.train.networks.architecture import MimiSizes

DECAY: Final = 0.99
_RARE: Final = 0.2  # of the mean usage
_LEAST_USAGE: Final = 1e-5


class Quantized(NamedTuple):
    """`features [N, D]` to decode, with gradients; `codes [N, K]`; how far vectors were from theirs."""

    features: Tensor
    codes: Tensor
    commitment: Tensor


class Codebook(nn.Module):
    """Centroids as running sums and counts, the way they are published."""

    embedding_sum: Tensor
    cluster_usage: Tensor
    _initialized: Tensor

    def __init__(self, bins: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("embedding_sum", torch.zeros(bins, dim))
        self.register_buffer("cluster_usage", torch.zeros(bins))
        self.register_buffer("_initialized", torch.zeros(1))
        self._known_initialized = False  # a copy of the buffer, which is on the device

    @property
    def centroids(self) -> Tensor:
        """`[bins, d]`."""
        return self.embedding_sum / self.cluster_usage.clamp(min=_LEAST_USAGE)[:, None]

    def nearest(self, x: Tensor) -> Tensor:
        """`x [N, d]` → `[N]`."""
        centroids = self.centroids
        return (centroids.square().sum(1) / 2 - x @ centroids.T).argmin(1)

    @property
    def is_initialized(self) -> bool:
        """Whether there are centroids."""
        self._known_initialized = self._known_initialized or bool(self._initialized)
        return self._known_initialized

    @torch.no_grad()
    def update(self, x: Tensor, codes: Tensor) -> None:
        """Update the means with `x [N, d]`, assigned to `codes [N]`; reset rarely used centroids."""
        bins = len(self.cluster_usage)
        some = x[torch.randint(len(x), (bins,), device=x.device)]
        if not self.is_initialized:
            fair = len(x) / bins
            self.embedding_sum.copy_(some * fair)
            self.cluster_usage.fill_(fair)
            self._initialized.fill_(1.0)
            return
        chosen = torch.zeros(len(x), bins, device=x.device).scatter_(1, codes[:, None], 1.0)
        self.cluster_usage.lerp_(chosen.sum(0), 1 - DECAY)
        self.embedding_sum.lerp_(chosen.T @ x, 1 - DECAY)
        usual = self.cluster_usage.sum() / bins
        rare = self.cluster_usage < _RARE * usual
        self.embedding_sum.copy_(torch.where(rare[:, None], some * usual, self.embedding_sum))
        self.cluster_usage.copy_(torch.where(rare, usual, self.cluster_usage))


class ResidualQuantizer(nn.Module):
    """Each level quantizes the residual of the levels before it; in float32, as codes depend on rounding."""

    def __init__(self, levels: int, sizes: MimiSizes) -> None:
        super().__init__()
        self.input_proj = nn.Conv1d(sizes.dim, sizes.code_dim, 1, bias=False)
        self.output_proj = nn.Conv1d(sizes.code_dim, sizes.dim, 1, bias=False)
        books = [nn.ModuleDict({"_codebook": Codebook(sizes.bins, sizes.code_dim)}) for _ in range(levels)]
        self.vq = nn.ModuleDict({"layers": nn.ModuleList(books)})

    def _books(self) -> list[Codebook]:
        return [layer["_codebook"] for layer in self.vq["layers"]]

    def forward(self, x: Tensor, levels: Tensor, *, learn: bool) -> Quantized:
        """`x [N, D]`, of each of which the first `levels [N]` levels are decoded."""
        projected = x @ self.input_proj.weight[:, :, 0].T
        residual = projected
        total = torch.zeros_like(projected)
        codes: list[Tensor] = []
        commitment = projected.new_zeros(())
        for level, book in enumerate(self._books()):
            code = book.nearest(residual.detach())
            if learn:
                # The first batch becomes the centroids and leaves no residual to initialize the next level.
                learn = book.is_initialized
                book.update(residual.detach(), code)
            centroid = book.centroids[code]
            active = (level < levels)[:, None]
            commitment = commitment + (active * (residual - centroid.detach()).square()).mean()
            total = total + torch.where(active, centroid, 0.0)
            residual = residual - centroid.detach()
            codes.append(code)
        through = projected + (total - projected).detach()
        return Quantized(
            through @ self.output_proj.weight[:, :, 0].T, torch.stack(codes, 1), commitment / len(codes)
        )

    def unquantized(self, x: Tensor) -> Tensor:
        """`x [N, D]` through both projections, without quantization."""
        return (x @ self.input_proj.weight[:, :, 0].T) @ self.output_proj.weight[:, :, 0].T

    def decode(self, codes: Tensor) -> Tensor:
        """`codes [N, k ≤ K]` → `[N, D]`."""
        books = self._books()[: codes.shape[1]]
        total = sum(
            (book.centroids[code] for book, code in zip(books, codes.unbind(1), strict=True)),
            torch.zeros((), device=codes.device),
        )
        return total @ self.output_proj.weight[:, :, 0].T
