"""What a set of images looks like on average: their mean colour, colour covariance and spectrum.

Pictures of real things are smooth: most of their contrast is in coarse structure, and their channels go together.
Input gradients are not. `ImagePrior.shape` filters a gradient so that it has the spectrum and the colours of the data,
which is what makes ascent steps draw things rather than noise (`fitb_callbacks.probing.ascent`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["ImagePrior"]

_SMALLEST_POWER = 1e-6
"""Power below this share of the strongest frequency's counts as this much, so that no frequency is shut out."""

_VALUES_AT_ONCE = 2**22
"""Values of images that are transformed at a time: 16 MiB in single precision."""


@dataclass(frozen=True)
class ImagePrior:
    """Mean colour, colour covariance and radial power spectrum of some images.

    Its size depends on the size of the images, not on their number, and two of them can be merged: statistics can be
    gathered batch by batch and process by process. Everything is float64 on the CPU.

    Attributes:
        size: Height and width of the images in pixels.
        count: Number of images, at least 1.
        mean: Mean colour, shape ``(C,)``, in the images' own units.
        covariance: Covariance of the channels over all pixels of all images, shape ``(C, C)``.
        power: Mean power at each radial frequency, shape ``(R,)``: entry r stands for r periods over the longer side.
            Entry 0, the mean of a whole image, is never zero where entry 1 is not.

    Example:
        >>> import torch
        >>> prior = ImagePrior.from_images(torch.rand(8, 3, 16, 16))
        >>> prior.count, prior.mean.shape, prior.covariance.shape, prior.power.shape
        (8, torch.Size([3]), torch.Size([3, 3]), torch.Size([12]))
    """

    size: tuple[int, int]
    count: int
    mean: Tensor
    covariance: Tensor
    power: Tensor

    @classmethod
    def from_images(cls, images: Tensor) -> ImagePrior:
        """Measure images, a few at a time.

        Args:
            images: Finite numbers, shape ``(N, C, H, W)``, at least one image, in the model's input space.
        """
        chunk = max(1, _VALUES_AT_ONCE // images[0].numel())
        first, *others = (cls._from_chunk(part) for part in images.detach().split(chunk))
        for other in others:
            first = first.merged(other)
        return first

    @classmethod
    def _from_chunk(cls, images: Tensor) -> ImagePrior:
        images = images.float()
        mean = images.mean(dim=(0, 2, 3))
        deviation = images - mean[:, None, None]
        pixels = deviation.transpose(0, 1).flatten(1)
        covariance = pixels @ pixels.T / pixels.shape[1]
        size = (images.shape[-2], images.shape[-1])
        power = torch.fft.rfft2(deviation, norm="ortho").abs().square().mean(dim=(0, 1)).double().cpu()
        radius = _radius(size).round().long().flatten()
        times = _times_in_the_whole_transform(size).flatten()
        return cls(
            size=size,
            count=len(images),
            mean=mean.double().cpu(),
            covariance=covariance.double().cpu(),
            power=torch.bincount(radius, times * power.flatten()) / torch.bincount(radius, times).clamp(min=1),
        )

    def merged(self, other: ImagePrior) -> ImagePrior:
        """The prior of both sets of images together.

        Spectra are of deviations from each set's own mean colour, so the merged spectrum leaves out the difference
        between the two means, which shows at frequency 0 alone.

        Raises:
            ValueError: If the images differ in size or in the number of channels.

        Example:
            >>> import torch
            >>> dark, light = torch.zeros(1, 1, 4, 4), torch.ones(3, 1, 4, 4)
            >>> prior = ImagePrior.from_images(dark).merged(ImagePrior.from_images(light))
            >>> prior.count, prior.mean.item(), prior.covariance.item()
            (4, 0.75, 0.1875)
        """
        if (self.size, len(self.mean)) != (other.size, len(other.mean)):
            raise ValueError(
                f"priors can be merged if their images have the same shape; got {len(self.mean)} channels of "
                f"{self.size} and {len(other.mean)} channels of {other.size}"
            )
        count = self.count + other.count
        share, difference = other.count / count, other.mean - self.mean
        covariance = torch.lerp(self.covariance, other.covariance, share)
        return ImagePrior(
            size=self.size,
            count=count,
            mean=torch.lerp(self.mean, other.mean, share),
            covariance=covariance + share * (1 - share) * torch.outer(difference, difference),
            power=torch.lerp(self.power, other.power, share),
        )

    @property
    def std(self) -> float:
        """Standard deviation of a pixel: the root of the channels' mean variance."""
        return self.covariance.diagonal().mean().sqrt().item()

    def shape(self, gradient: Tensor, *, exponent: float = 1.0) -> Tensor:
        """Give a gradient the spectrum and the colours of the images.

        Each frequency is multiplied by the images' amplitude at it, to the power of ``exponent``, and the channels by
        their covariance. A direction that the images do not vary in, such as colour in a set of grey photographs,
        gets next to nothing.

        Args:
            gradient: Shape ``(B, C, H, W)``, of the size of the images; zeros stay zeros.
            exponent: 0 leaves the spectrum alone, 1 multiplies by the images' amplitude spectrum, 2 by their power
                spectrum.

        Returns:
            Shape ``(B, C, H, W)``, float32 at least, at a scale of its own: what counts is the direction.

        Raises:
            ValueError: If the gradient's shape is not that of the images.

        Example:
            >>> import torch
            >>> smooth = torch.linspace(0, 1, 8).expand(1, 1, 8, 8)
            >>> noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
            >>> shaped = ImagePrior.from_images(smooth).shape(noise)
            >>> (shaped.diff(dim=-1).std() / shaped.std() < noise.diff(dim=-1).std() / noise.std()).item()
            True
        """
        if tuple(gradient.shape[1:]) != (len(self.mean), *self.size):
            raise ValueError(
                f"gradient must have the shape (B, {len(self.mean)}, {self.size[0]}, {self.size[1]}), as the images "
                f"of this prior have; got {tuple(gradient.shape)}"
            )
        gradient = gradient if gradient.dtype == torch.float64 else gradient.float()
        return self.shaping([(0, 0)], like=gradient, exponent=exponent)(gradient, 0)

    def shaping(
        self, shifts: Sequence[tuple[int, int]], *, like: Tensor, exponent: float = 1.0, colours: bool = True
    ) -> Callable[[Tensor, int], Tensor]:
        """What gives many gradients their shape, see `shape`, and rolls them meanwhile, which costs nothing there.

        Args:
            shifts: By how many rows and columns gradients are rolled.
            like: Of the device and the type that gradients will have. Whatever is needed is brought there now, since
                each copy makes a GPU wait.
            exponent: As for `shape`.
            colours: Whether channels are mixed.

        Returns:
            A function of a gradient ``(B, C, H, W)`` and the number of its shift.

        Example:
            >>> import torch
            >>> images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
            >>> prior = ImagePrior.from_images(images)
            >>> shape = prior.shaping([(0, 0), (2, -3)], like=images)
            >>> torch.allclose(shape(images, 1), prior.shape(images).roll((2, -3), dims=(2, 3)), atol=1e-5)
            True
        """
        amplitude = self._amplitude.pow(exponent).to(like.dtype).to(like.device)
        spectra = amplitude * _phases(self.size, shifts, like)
        mixing = None if len(self.mean) == 1 or not colours else self._mixing.to(like.dtype).to(like.device)

        def shape(gradient: Tensor, number: int) -> Tensor:
            gradient = torch.fft.irfft2(torch.fft.rfft2(gradient).mul_(spectra[number]), s=self.size)
            return gradient if mixing is None else (mixing @ gradient.flatten(2)).view_as(gradient)

        return shape

    @cached_property
    def _amplitude(self) -> Tensor:
        """Amplitude at each frequency of `torch.fft.rfft2`, at most 1; 1 / frequency for images without structure."""
        radius = _radius(self.size)
        power = self.power.clone()
        if len(power) > 1:
            power[0] = power[:2].amax()
        if not power.max() > 0:
            return 1 / radius.clamp(min=1)
        relative = (power / power.max()).clamp(min=_SMALLEST_POWER)
        return relative.sqrt()[radius.round().long()]

    @cached_property
    def _mixing(self) -> Tensor:
        """Covariance of the channels over the largest variance; nothing is mixed in images of a single colour."""
        largest = self.covariance.diagonal().amax()
        return self.covariance / largest if largest > 0 else torch.eye(len(self.mean), dtype=torch.float64)


def _radius(size: tuple[int, int]) -> Tensor:
    """Distance from frequency 0 of each frequency of `torch.fft.rfft2`, in periods over the longer side."""
    rows, columns = (torch.fft.fftfreq(size[0]), torch.fft.rfftfreq(size[1]))
    return torch.hypot(rows[:, None], columns[None]).double() * max(size)


def _phases(size: tuple[int, int], shifts: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """What each frequency of `torch.fft.rfft2` is multiplied by to roll an image by each of some shifts."""
    by = torch.tensor(shifts, device=like.device)[..., None]
    rows, columns = (torch.arange(number, device=like.device) for number in (size[0], size[1] // 2 + 1))
    # Whole turns are left out while everything is an integer
    turns_down = (rows * by[:, 0] % size[0]).to(like.dtype) / size[0]
    turns_across = (columns * by[:, 1] % size[1]).to(like.dtype) / size[1]
    angle = -2 * math.pi * (turns_down[:, :, None] + turns_across[:, None])
    return torch.polar(torch.ones_like(angle), angle)


def _times_in_the_whole_transform(size: tuple[int, int]) -> Tensor:
    """How often each frequency of `torch.fft.rfft2` is in the transform that it is the half of: once or twice."""
    times = torch.full((size[0], size[1] // 2 + 1), 2.0, dtype=torch.float64)
    times[:, 0] = 1
    if size[1] % 2 == 0:
        times[:, -1] = 1
    return times
