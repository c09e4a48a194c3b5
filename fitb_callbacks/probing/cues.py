"""What decides the answer: classify images of which one cue is kept, and the rest is another image's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fitb_callbacks.models.answers import predicted
from fitb_callbacks.models.chunks import in_chunks
from fitb_callbacks.models.logits import Classify
from fitb_callbacks.scoring.intervals import difference_interval
from fitb_callbacks.scoring.nulls import permuted_patches

__all__ = ["CUES", "Cue", "cue_profile", "mixed", "of_another_class"]

CUES: Mapping[str, str] = {
    "spot": "the spot that the model looks at most",
    "place": "the few places that matter most in its class",
    "colour": "the mean colour",
    "shading": "the coarse shading (4 x 4 cells, fewer in images below 28 pixels)",
    "rim": "the rim",
    "detail": "the finest detail (of images of 28 pixels or more)",
    "pattern": "how much there is of each pattern, but not where (the amplitude spectrum)",
    "sharpness": "how blurred it is (how little there is of each spatial frequency)",
    "contrast": "its brightness and contrast (its lowest and its highest value)",
    "faint": "what stands out little from the background",
    "shuffled": "the shuffled patches",
    "centre": "the centre",
}
"""Cue to what is kept of an image, in words that complete "97% of the answers follow ..."."""

_OF_REGIONS = ("spot", "place")
_RIM = 1 / 8  # of the shorter side
_SHUFFLED = 7  # patches on the shorter side
_FEWEST_PIXELS = 28  # on the shorter side, for there to be detail that pictures can do without
_FAINT, _FAINT_SHARE = 0.6, 0.25
"""Up to which part of an image's largest distance from its background pixels are faint, and how much of its squared
distances these may hold: in photographs nearly everything is near the background, and that is no longer a cue."""
_TINY = 1e-20
_DRAWS = 3  # images of another class, or orders of the patches, for each image


@dataclass(frozen=True)
class Cue:
    """What the model goes by where one cue and the rest of the image contradict each other.

    Attributes:
        kept: Share of the answers that follow the cue, in [0, 1].
        rest: Share of the answers that follow the rest, in [0, 1]. For shuffled patches, which have no rest, the share
            that would be right if the same answers were dealt at random.
        low: Lower end of the 95% interval of `lead`.
        high: Upper end.
    """

    kept: float
    rest: float
    low: float
    high: float

    @property
    def lead(self) -> float:
        """How many more answers follow the cue than the rest, in [-1, 1]: 0 for a model that sees neither."""
        return self.kept - self.rest


def cue_profile(
    classify: Classify,
    images: Tensor,
    labels: Tensor,
    *,
    regions: Mapping[str, Tensor] | None = None,
    chunk_size: int | None = None,
) -> dict[str, Cue]:
    """Keep one cue of each image, take the rest from an image of another class, and see which one the model names.

    A shortcut that is everywhere in an image (a tint, a shading, a border) has no patch that could be pointed at, but
    it shows here: most of the image is another class's, and the answer stays. A model that looks at things follows the
    rest, which is nearly all of them. The mixed images look more like the training data than images with something cut
    out would. Whether it is a fault depends on the task, since fruit may well be told by colour; compare with the
    champion, or with the first epochs. Three forward passes over the images for each cue.

    Args:
        classify: Images ``(B, C, H, W)`` to logits ``(B, classes)``.
        images: Shape ``(N, C, H, W)``, at least one.
        labels: Shape ``(N,)``.
        regions: For the cues "spot" and "place": where each image has what the model looks at most, boolean, shape
            ``(N, H, W)``. A cue without its region is left out.
        chunk_size: As for `fitb_callbacks.models.chunks.in_chunks`.

    Returns:
        The cues of `CUES` by name.

    Example:
        >>> images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> labels = images.mean(dim=(2, 3)).argmax(dim=1)
        >>> by_mean_colour = lambda images: images.mean(dim=(2, 3))
        >>> profile = cue_profile(by_mean_colour, images, labels)
        >>> profile["colour"].lead > 0.9, profile["shuffled"].kept
        (True, 1.0)
    """
    regions, labels = regions or {}, labels.cpu()  # answers are counted on the CPU: a GPU would only have to wait
    own = torch.arange(len(labels))
    pairs = [(own.to(images.device), of_another_class(labels, draw).to(images.device)) for draw in range(_DRAWS)]
    blurred_first = _blurred_first(images, pairs)

    def mixture(name: str, draw: int, kept: Tensor, rest: Tensor) -> Tensor:
        if name in regions:
            # Where the other image has its own, it would be two images' spots
            return torch.where((regions[name][kept] | regions[name][rest])[:, None], images[kept], images[rest])
        return mixed(name, images[kept], images[rest], seed=draw)

    profile = {}
    for name in (name for name in CUES if name in regions or name not in _OF_REGIONS):
        of_cue = blurred_first if name == "sharpness" else pairs
        # All draws in one: a GPU takes as long for a few images as for many
        mixtures = torch.cat([mixture(name, draw, *pair) for draw, pair in enumerate(of_cue)])
        of_kept, of_rest = (labels[torch.cat(numbers).cpu()] for numbers in zip(*of_cue, strict=True))
        answers = predicted(in_chunks(classify, mixtures, chunk_size).cpu(), of_kept)
        kept, rest = ((answers == wanted).double().view(_DRAWS, -1).mean(dim=0) for wanted in (of_kept, of_rest))
        if name == "shuffled":
            rest = torch.full_like(kept, _mean([_chance(some, labels) for some in answers.view(_DRAWS, -1)]))
        low, high = difference_interval(kept - rest)
        profile[name] = Cue(kept.mean().item(), rest.mean().item(), low, high)
    return profile


def mixed(cue: str, images: Tensor, others: Tensor, *, seed: int = 0) -> Tensor:
    """Keep one cue of some images and take the rest from others. Shuffled patches have nothing of the others.

    Args:
        cue: One of `CUES`, but for "spot" and "place".
        images: Shape ``(N, C, H, W)``.
        others: The same shape.
        seed: Of the shuffled patches.

    Returns:
        Images of the same shape, with values between the lowest and the highest of ``images``.

    Example:
        >>> image = torch.arange(64.0).view(1, 1, 8, 8)
        >>> mixed("rim", image, torch.zeros_like(image))[0, 0, 0, :3].tolist()
        [0.0, 1.0, 2.0]
    """
    of_patch = max(1, min(images.shape[-2:]) // _SHUFFLED)
    coarse = min(4, max(1, min(images.shape[-2:]) // 7))
    make: dict[str, Callable[[], Tensor]] = {
        "shading": lambda: others - _blurred(others, coarse) + _blurred(images, coarse),
        "colour": lambda: others - others.mean(dim=(2, 3), keepdim=True) + images.mean(dim=(2, 3), keepdim=True),
        "shuffled": lambda: permuted_patches(images, patch_size=of_patch, seed=seed),
        "detail": lambda: images - _halved(images) + _halved(others),
        "pattern": lambda: _with_amplitudes(others, images),
        "sharpness": lambda: _as_sharp_as(images, others),
        "contrast": lambda: _between_the_ends_of(images, others),
        "faint": lambda: _with_faint_part(others, images),
        "rim": lambda: torch.where(_inside(images, _RIM), others, images),
        "centre": lambda: torch.where(_inside(images, 1 / 4), images, others),
    }
    low, high = images.aminmax()
    return make[cue]().clamp(low, high)


def _blurred_first(images: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Pairs of images with the less sharp one first: a picture can be made less sharp, but not sharper than it is."""
    rings, number = _rings(images)
    amplitudes = _of_rings(torch.fft.fft2(images.float()), rings, number)
    by_frequency = torch.arange(number, device=images.device)
    sharpness = (amplitudes * by_frequency).sum(dim=1) / amplitudes[:, 1:].sum(dim=1).clamp(min=_TINY)
    return [
        (torch.where(turned, other, one), torch.where(turned, one, other))
        for one, other in pairs
        for turned in [sharpness[one] > sharpness[other]]
    ]


def of_another_class(labels: Tensor, draw: int = 0) -> Tensor:
    """For each image the number of one of another class, spread over all; its own where there is no other class.

    Args:
        labels: Shape ``(N,)``.
        draw: Further draws find other ones.

    Returns:
        Row numbers, shape ``(N,)``.

    Example:
        >>> of_another_class(torch.tensor([0, 0, 1, 1])).tolist()
        [2, 3, 0, 1]
    """
    number = len(labels)
    partners = torch.arange(number, device=labels.device)
    for index in range(number):
        turns = (index + number * (2 + draw) // 4 + torch.arange(number, device=labels.device)) % number
        different = turns[labels[turns] != labels[index]]
        if len(different):
            partners[index] = different[0]
    return partners


def _blurred(images: Tensor, cells: int) -> Tensor:
    height, width = images.shape[-2:]
    coarse = F.adaptive_avg_pool2d(images, (min(cells, height), min(cells, width)))
    return F.interpolate(coarse, (height, width), mode="bilinear")


def _halved(images: Tensor) -> Tensor:
    """The images as they would look at half the resolution; small ones as they are, whose pixels are no detail."""
    height, width = images.shape[-2:]
    if min(height, width) < _FEWEST_PIXELS:
        return images
    return F.interpolate(F.avg_pool2d(images, 2, ceil_mode=True), (height, width), mode="bilinear")


def _with_amplitudes(images: Tensor, others: Tensor) -> Tensor:
    """The images with the amplitude spectrum of others; mean colours stay."""
    with torch.autocast(images.device.type, enabled=False):
        phases, amplitudes = torch.fft.fft2(images.float()).angle(), torch.fft.fft2(others.float()).abs()
        made = torch.fft.ifft2(torch.polar(amplitudes, phases)).real.to(images.dtype)
    mixed_images: Tensor = made - made.mean(dim=(2, 3), keepdim=True) + images.mean(dim=(2, 3), keepdim=True)
    return mixed_images


def _with_faint_part(images: Tensor, others: Tensor) -> Tensor:
    """What stands out of the images, on the others without what stands out of these."""
    grounds, strong = zip(*map(_standing_out, (images, others)), strict=True)
    return torch.where(strong[0], images, torch.where(strong[1], grounds[1], others))


def _standing_out(images: Tensor) -> tuple[Tensor, Tensor]:
    """The median colour of each image's rim, ``(N, C, 1, 1)``, and which pixels stand out from it, ``(N, 1, H, W)``."""
    rim = images[..., ~_inside(images, _RIM)].sort(dim=2).values
    ground = rim[..., (rim.shape[2] - 1) // 2, None, None]
    distance = (images - ground).abs().amax(dim=1, keepdim=True)
    # On the CPU: a GPU has no deterministic way to add these up
    ordered = distance.flatten(1).cpu().sort(dim=1).values
    held = ordered.double().square().cumsum(dim=1)
    faint = (held <= _FAINT_SHARE * held[:, -1:]).sum(dim=1, keepdim=True).clamp(min=1) - 1
    limit = torch.minimum(ordered.gather(1, faint), _FAINT * ordered[:, -1:])
    return ground, distance > limit[..., None, None].to(distance.device)


def _as_sharp_as(images: Tensor, others: Tensor) -> Tensor:
    """The others, with no more of each spatial frequency than the images have, whatever its direction."""
    rings, number = _rings(images)
    with torch.autocast(images.device.type, enabled=False):
        spectra = [torch.fft.fft2(some.float()) for some in (images, others)]
        wanted, present = (_of_rings(spectrum, rings, number) for spectrum in spectra)
        gain = (wanted / (present + 1e-3 * present.amax(dim=1, keepdim=True)).clamp(min=_TINY)).clamp(max=1)
        gain[:, 0] = 1  # colours stay
        made: Tensor = torch.fft.ifft2(spectra[1] * gain[:, rings][:, None]).real
    return made.to(images.dtype)


def _between_the_ends_of(images: Tensor, others: Tensor) -> Tensor:
    """The others, brightened and stretched so that they end where the images do."""
    (low, high), (darkest, brightest) = (
        (ends.view(-1, 1, 1, 1) for ends in some.flatten(1).aminmax(dim=1)) for some in (images, others)
    )
    return low + (others - darkest) * (high - low) / (brightest - darkest).clamp(min=_TINY)


def _rings(images: Tensor) -> tuple[Tensor, int]:
    """The distance of each frequency of `torch.fft.fft2` from frequency 0, rounded, and one more than the largest."""
    rows, columns = (torch.fft.fftfreq(side) for side in images.shape[-2:])
    rings = (min(images.shape[-2:]) * torch.hypot(rows[:, None], columns)).round().long()
    return rings.to(images.device), int(rings.max()) + 1


def _of_rings(spectrum: Tensor, rings: Tensor, number: int) -> Tensor:
    """Root mean square amplitude of images at each distance from frequency 0, shape ``(N, number)``."""
    power = spectrum.abs().square().sum(dim=1).flatten(1)
    counts = torch.bincount(rings.flatten(), minlength=number)
    return (power.new_zeros(len(power), number).index_add_(1, rings.flatten(), power) / counts).sqrt()


def _inside(images: Tensor, share: float) -> Tensor:
    """Pixels further from the edge than this share of the shorter side, ``(H, W)``."""
    height, width = images.shape[-2:]
    margin = max(1, round(share * min(height, width)))
    inside = torch.zeros(height, width, dtype=torch.bool, device=images.device)
    inside[margin : height - margin, margin : width - margin] = True
    return inside


def _chance(answers: Tensor, labels: Tensor) -> float:
    answers, labels = answers + 1, labels + 1  # an answer of -1 is none of the labels
    classes = int(max(answers.max(), labels.max())) + 1
    shares = [torch.bincount(values, minlength=classes).double() / len(values) for values in (answers, labels)]
    return float((shares[0] * shares[1]).sum())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
