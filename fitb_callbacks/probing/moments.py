"""Streaming mean and variance of updates, mergeable across chunks and ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fitb_callbacks.utils.arithmetic import safe_divide

__all__ = ["Moments"]


@dataclass
class Moments:
    """Count, mean and sum of squared deviations of the kept updates of each image.

    Chunks are merged by the pairwise form of Welford's method (Chan, Golub and LeVeque, 1979): the textbook
    ``E[x^2] - E[x]^2`` loses every digit in float32 when the mean is large against the spread. Memory is two images
    an image, however many masks are added.

    Attributes:
        count: Kept masks of each image, shape ``(N,)``.
        mean: Mean of the kept updates, shape ``(N, C, H, W)``.
        squares: Sum of squared deviations from the mean, shape ``(N, C, H, W)``.
        nonfinite: Updates of each image that held NaN or infinity and were left out, shape ``(N,)``.

    Example:
        >>> import torch
        >>> moments = Moments.zeros((1, 1, 1, 1))
        >>> values = torch.tensor([1.0, 3.0, 100.0]).view(3, 1, 1, 1, 1)
        >>> _ = moments.add(values, torch.tensor([[True], [True], [False]]))
        >>> moments.mean.item(), moments.variance().item(), moments.count.item()
        (2.0, 2.0, 2.0)
    """

    count: Tensor
    mean: Tensor
    squares: Tensor
    nonfinite: Tensor

    @classmethod
    def zeros(
        cls, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
    ) -> Moments:
        """No updates yet, for images of the shape ``(N, C, H, W)``."""
        return cls(
            count=torch.zeros(shape[0], dtype=dtype, device=device),
            mean=torch.zeros(shape, dtype=dtype, device=device),
            squares=torch.zeros(shape, dtype=dtype, device=device),
            nonfinite=torch.zeros(shape[0], dtype=dtype, device=device),
        )

    @classmethod
    def of(cls, images: Tensor) -> Moments:
        """No updates yet, for these images: on their device, in float32 at least."""
        dtype = images.dtype if images.dtype == torch.float64 else torch.float32
        return cls.zeros(tuple(images.shape), dtype=dtype, device=images.device)

    def add(self, values: Tensor, keep: Tensor, rows: slice = slice(None)) -> Tensor:
        """Add K updates of each of some images.

        Args:
            values: Updates, shape ``(K, R, C, H, W)``; they are overwritten.
            keep: Which of them count, boolean, shape ``(K, R)``. Those that are not finite never do.
            rows: Which of the N images the R images are.

        Returns:
            Which were added, boolean, shape ``(K, R)``.
        """
        # One pass over the values: a sum with NaN or infinity in it is not finite either.
        finite = values.sum(dim=(2, 3, 4)).isfinite()
        keep = keep & finite
        weight = keep[..., None, None, None].to(self.mean.dtype)
        # Kept values are finite, and the others zero or NaN once they are weighted. Faster than a choice.
        values = values.to(self.mean.dtype).mul_(weight).nan_to_num_(nan=0.0)
        count = keep.sum(0).to(self.count.dtype)
        mean = safe_divide(values.sum(0), count[:, None, None, None])
        squares = values.addcmul_(weight, mean, value=-1).square_().sum(0)
        self._merge_rows(rows, count, mean, squares, (~finite).sum(0).to(self.count.dtype))
        return keep

    def merge(self, other: Moments, rows: slice | Tensor = slice(None)) -> None:
        """Add what another set of moments has seen.

        Args:
            other: Of R images.
            rows: Which of the N images these are, as a slice or as integers that are all different.
        """
        self._merge_rows(rows, other.count, other.mean, other.squares, other.nonfinite)

    def merged(self, other: Moments) -> Moments:
        """A new set: this one and another one of the same images."""
        both = Moments(self.count.clone(), self.mean.clone(), self.squares.clone(), self.nonfinite.clone())
        both.merge(other)
        return both

    def _merge_rows(
        self, rows: slice | Tensor, count: Tensor, mean: Tensor, squares: Tensor, nonfinite: Tensor
    ) -> None:
        total = self.count[rows] + count
        share = safe_divide(count, total)[:, None, None, None]
        difference = mean - self.mean[rows]
        squares = squares + difference.square() * share * self.count[rows][:, None, None, None]
        step = difference * share
        # From here on slices allocate nothing: running out of memory above leaves everything as it was.
        self.squares[rows] += squares
        self.mean[rows] += step
        self.count[rows] = total
        self.nonfinite[rows] += nonfinite

    def all_reduce(self) -> None:
        """Merge over all processes of the default process group; afterwards every rank holds the same moments.

        Every rank must call this, with moments of the same images.

        Raises:
            fitb_callbacks.utils.distributed.OtherRankError: If another rank failed before it got here.
        """
        import torch.distributed as dist

        from fitb_callbacks.utils.distributed import confirm

        confirm()
        count, weighted_mean = self.count.clone(), self.mean * self.count[:, None, None, None]
        dist.all_reduce(count)
        dist.all_reduce(weighted_mean)
        mean = safe_divide(weighted_mean, count[:, None, None, None])
        squares = self.squares + (self.mean - mean).square() * self.count[:, None, None, None]
        dist.all_reduce(squares)
        dist.all_reduce(self.nonfinite)
        self.count, self.mean, self.squares = count, mean, squares

    def variance(self) -> Tensor:
        """Unbiased variance of a single update, shape ``(N, C, H, W)``; zero where fewer than two were kept."""
        return self.squares / (self.count - 1).clamp(min=1)[:, None, None, None]

    def standard_error(self) -> Tensor:
        """Standard error of the mean, as if updates were independent, shape ``(N, C, H, W)``."""
        return safe_divide(self.variance(), self.count[:, None, None, None]).sqrt()

    def relative_error(self) -> Tensor:
        """How far each mean is likely to be from the truth, as a share of the truth's size, shape ``(N,)``.

        The root mean square of the standard errors over that of the mean, less what of the mean is only error. An error
        ``e`` means a correlation of about ``1 / sqrt(1 + e^2)`` with the truth: 0.98 for 0.2. Infinite where the mean
        does not stand out from its error, or fewer than two updates were kept.

        Example:
            >>> moments = Moments.zeros((1, 1, 1, 1))
            >>> _ = moments.add(torch.tensor([4.0, 6.0]).view(2, 1, 1, 1, 1), torch.tensor([[True], [True]]))
            >>> round(moments.relative_error().item(), 3)  # 5 +- 1
            0.204
        """
        error = self.standard_error().square().flatten(1).mean(dim=1)
        signal = (self.mean.square().flatten(1).mean(dim=1) - error).clamp(min=0)
        known = (self.count > 1) & ((signal > 0) | (error == 0))
        return torch.where(known, safe_divide(error, signal).sqrt(), torch.inf)
