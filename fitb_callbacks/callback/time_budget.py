"""Keep the probes' time under a given share of the training's."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from fitb_callbacks.utils.validation import check_number_between

__all__ = ["FLOOR_SECONDS", "MaxOverhead", "ProbeSize", "Speeds", "TimeBudget", "share_of"]

MaxOverhead = float | Literal["auto"] | None
"""A share of the training's time, "auto" for the usual one, or None for any."""

_USUAL_SHARE = 0.05
FLOOR_SECONDS = 2.0
"""With "auto", a training that is too short for any probe gets one of the smallest size if the callback then takes no
more than this in all."""

_FLOOR_MASKS = 16
_FLOOR_IMAGES = 8
_SURE_MASKS = 64
"""A probe makes so many before it looks at its time limit."""

_PATIENCE = 1.5
"""How far a probe may exceed its prediction before the next ones are made smaller; times vary."""

_BEFORE_TRAINING = 0.25
"""Share of what the first epoch's probe may take that a look before training may; the rest is left for that probe."""

_PICTURES = 0.4
"""Seconds that the first probe's pictures are taken to cost; those of later ones are known from it."""


@dataclass(frozen=True)
class ProbeSize:
    """How much a probe does: masks an image, images, and whether images are filled in."""

    masks: int
    images: int
    fill: bool = True

    def smaller(self) -> ProbeSize | None:
        """The next smaller size: fewer masks down to 16, then fewer images down to 8, then no fill; None below.

        Example:
            >>> size = ProbeSize(64, 20)
            >>> [(each.masks, each.images, each.fill) for each in size.down()]
            [(64, 20, True), (32, 20, True), (16, 20, True), (16, 10, True), (16, 8, True), (16, 8, False)]
        """
        if self.masks > _FLOOR_MASKS:
            return dataclasses.replace(self, masks=max(_FLOOR_MASKS, self.masks // 2))
        if self.images > _FLOOR_IMAGES:
            return dataclasses.replace(self, images=max(_FLOOR_IMAGES, self.images // 2))
        return dataclasses.replace(self, fill=False) if self.fill else None

    def down(self) -> list[ProbeSize]:
        """This size and all that are smaller."""
        smaller = self.smaller()
        return [self] if smaller is None else [self, *smaller.down()]

    def at_most(self, other: ProbeSize) -> ProbeSize:
        """The smaller of two sizes, in each respect."""
        return ProbeSize(min(self.masks, other.masks), min(self.images, other.images), self.fill and other.fill)


class Speeds(NamedTuple):
    """What the parts of a probe take, in seconds; NaN if that is not known.

    Attributes:
        masked_image: One image under one mask.
        image: What is done once with each image beside the masks.
        filled_image: Filling one image in.
        trying: What it takes to find these out; 0 once that is done. Until then they are what is taken at least.
    """

    masked_image: float = math.nan
    image: float = math.nan
    filled_image: float = math.nan
    trying: float = 0.0

    def of(self, size: ProbeSize, *, most_masks: int) -> float:
        """Seconds of a probe without its pictures; 0 if that is not known."""
        if math.isnan(self.masked_image):
            return 0.0
        return size.images * (self.masked_image * min(size.masks, most_masks) + self.beside(size))

    def beside(self, size: ProbeSize) -> float:
        """Seconds that one image takes beside its masks."""
        return self.image + (self.filled_image if size.fill else 0.0)


class TimeBudget:
    """Decides how large a probe may be, and whether there is time for one at all.

    All that the callback does may have taken a share of the time that the training itself has taken so far. The first
    probe runs as soon as there is time for the smallest one, in the size that fits. Later ones keep to its size, so
    that their scores compare; the size only ever becomes smaller. If there is no time for a probe, it is left out.

    With "auto", a training that is too short for all that gets one of the smallest size at its last chance, if the
    callback then has taken at most two seconds. A share that was given is kept.

    Args:
        max_overhead: The share, above 0, or "auto" for 5%. None sets no limit.

    Raises:
        ValueError: If the share is not above 0.
        TypeError: If it is no number.

    Example:
        >>> budget = TimeBudget(0.05)
        >>> budget.trained(seconds=100)
        >>> budget.measure(Speeds(masked_image=0.001, image=0.01, filled_image=0.03))
        >>> size, why_not = budget.plan(ProbeSize(256, 40))
        >>> size, budget.allowed
        (ProbeSize(masks=256, images=40, fill=True), 5.0)
        >>> budget.spend(size, seconds=5.0)
        >>> budget.trained(seconds=10)
        >>> size, why_not = budget.plan(ProbeSize(256, 40))
        >>> why_not
        'not every chance is taken to probe: max_overhead=0.05 leaves 0.5 s, and a probe takes about 5 s'
    """

    def __init__(self, max_overhead: MaxOverhead) -> None:
        self.max_overhead = max_overhead
        self._share = share_of(max_overhead)
        self._floor = FLOOR_SECONDS if max_overhead == "auto" else 0.0
        self._size: ProbeSize | None = None
        self.begin()

    def begin(self) -> None:
        """Start a run's clock."""
        self._training = self._spent = 0.0
        self._interval = 0.0
        self.last_overhead = math.nan
        """What share of the training time since the probe before it the last probe took; NaN if that is not known."""
        self._last: float | None = None
        self.speeds = Speeds()
        """What the parts of a probe take, as far as that was measured."""
        self._predicted = math.nan
        self._room = 0.0  # seconds that the probe which was planned last may take
        self._probes = 0
        self._aside = 0.0
        self.waits = False
        """Whether there has been no time for the first probe yet."""

    # --- the clock -------------------------------------------------------------------------------------------------

    def tick(self) -> float:
        """Seconds since the last tick, which the training took; 0 the first time. Read by `trained`."""
        now = time.perf_counter()
        seconds = 0.0 if self._last is None else now - self._last
        self._last = now
        return seconds

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Count a block's time as the probes', not the training's; `take_aside` tells how much."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self._aside += seconds
            self._last = None if self._last is None else self._last + seconds

    def take_aside(self) -> float:
        """Seconds in `aside` since the last call. Read by `spend_aside`."""
        seconds, self._aside = self._aside, 0.0
        return seconds

    def spend_aside(self, seconds: float) -> None:
        """Add time that the callback took beside its probes, such as for pictures, the same on every process."""
        self._spent += seconds
        if self._probes:
            self._predicted += seconds

    def restart(self) -> None:
        """Leave out the time since the last tick: the probe's own."""
        self._last = time.perf_counter()

    def trained(self, seconds: float) -> None:
        """Add training time, the same on every process."""
        self._training += seconds
        self._interval += seconds

    @property
    def allowed(self) -> float | None:
        """Seconds that a probe may take now; None for any."""
        return None if self._share is None else max(0.0, self._share * self._training - self._spent)

    @property
    def is_strict(self) -> bool:
        """Whether a share was given, which has to pay for everything."""
        return self._share is not None and self.max_overhead != "auto"

    def clock(self) -> tuple[float, float]:
        """Seconds that the training has taken on this process, and those in `aside` since the last `take_aside`."""
        return self._training + (0.0 if self._last is None else time.perf_counter() - self._last), self._aside

    def affords(self, seconds: float, clock: tuple[float, float]) -> bool:
        """Whether a given share has room for something beside the probes; always if none was given.

        Args:
            seconds: What it takes.
            clock: Of this process, or of the slowest one.
        """
        so_far, aside = clock
        return not self.is_strict or seconds < (self._share or 0.0) * so_far - self._spent - aside

    # --- the decisions ---------------------------------------------------------------------------------------------

    def measure(self, speeds: Speeds) -> None:
        """Take the speeds from a check or a try, the same on every process."""
        self.speeds = speeds

    def plan(
        self, wanted: ProbeSize, *, cannot_wait: bool = False, asked_for: bool = False
    ) -> tuple[ProbeSize | None, str]:
        """How large a probe may be now; None and why not, if there is no time for one.

        Args:
            wanted: How large it would be if there were time.
            cannot_wait: Whether the first probe has to be made now, or never: this is the last chance, or its scores
                are monitored.
            asked_for: Whether it was asked for apart from any training: it is made in the smallest size if need be.
        """
        wanted = wanted if self._size is None else wanted.at_most(self._size)
        if (allowed := self.allowed) is None:
            return wanted, ""
        self._room = allowed
        if self._probes:
            return (wanted, "") if self._predicted <= allowed else (None, self._why_not(allowed))
        fitting = self._first_within(allowed, wanted.down() if self._size is None else [wanted])
        smallest, floor = _smallest(wanted), self._floor - self._spent
        by_the_floor = self._first_within(floor, smallest)
        if fitting is None and cannot_wait:
            fitting, self._room = by_the_floor, floor
        if fitting is None and asked_for:
            fitting = smallest[-1]
        self.waits = fitting is None
        if fitting is not None:
            return fitting, ""
        return None, self._why_waiting(smallest[-1], at_the_end=by_the_floor is not None)

    def plan_before_training(self, wanted: ProbeSize, *, epoch_seconds: float) -> ProbeSize | None:
        """How large a look at the untrained network may be: the smallest, within a quarter of a first epoch's share.

        Args:
            wanted: How large it would be if there were time.
            epoch_seconds: What an epoch is expected to take, at least.
        """
        if self._share is None:
            return wanted
        self._room = _BEFORE_TRAINING * self._share * epoch_seconds - self._spent
        return self._first_within(self._room, _smallest(wanted))

    def _first_within(self, seconds: float, sizes: list[ProbeSize]) -> ProbeSize | None:
        return next((size for size in sizes if self._cost(size) <= seconds), None)

    def _why_not(self, allowed: float) -> str:
        return (
            f"not every chance is taken to probe: {self.in_words} leaves {allowed:.2g} s, and a probe takes about "
            f"{self._predicted:.2g} s"
        )

    def _why_waiting(self, size: ProbeSize, *, at_the_end: bool) -> str:
        return self.why_waiting(self._cost(size), "it", trying=self.speeds.trying > 0, at_the_end=at_the_end)

    def why_waiting(self, cost: float, what: str, *, trying: bool = True, at_the_end: bool = False) -> str:
        """How long the training would have to be for the first probe, in a sentence.

        Args:
            cost: Seconds of what comes next.
            what: That.
            trying: Whether it may take longer than that.
            at_the_end: Whether the end of the training would do.
        """
        assert self._share is not None
        how = "at least" if trying else "about"
        end = ", or is at its end" if at_the_end else "; a shorter one is not probed"
        enough = (cost + self._spent) / self._share
        return (
            f"the first probe waits until the training has taken {how} {enough:.2g} s{end}: "
            f"{what} takes {how} {cost:.2g} s, and {self.in_words}"
        )

    @property
    def in_words(self) -> str:
        """The setting as it is given, and what it means."""
        return f"max_overhead={self.max_overhead!r}" + (f" ({_USUAL_SHARE:.0%})" if self.max_overhead == "auto" else "")

    @property
    def advice(self) -> str:
        """Which settings allow more, in a sentence."""
        return (
            "max_overhead=None takes every chance"
            if self.max_overhead == "auto"
            else "max_overhead='auto' has two seconds for a short training, max_overhead=None takes every chance"
        )

    def spend(self, size: ProbeSize, seconds: float, *, masks_made: int | None = None) -> None:
        """Note what a probe took, and make the next ones smaller if that was much more than allowed.

        Args:
            size: As it was meant to be.
            seconds: The time it took.
            masks_made: Most masks that an image got, if fewer.
        """
        allowed, first = self.allowed, self._probes == 0
        self._spent += seconds
        self._probes += 1
        self.waits = False
        self._predicted = seconds
        self.last_overhead = seconds / self._interval if self._interval > 0 else math.nan
        self._interval = 0.0
        made = dataclasses.replace(size, masks=min(size.masks, masks_made or size.masks))
        self._size = made
        if allowed is not None and seconds > _PATIENCE * allowed and not first:
            self._size = made.smaller() or made
        if allowed is not None and first and seconds > _PATIENCE * allowed:
            self._shrink(seconds / max(allowed, 1e-9))

    def _shrink(self, factor: float) -> None:
        assert self._size is not None
        number = self._size.masks * self._size.images / factor
        while self._size.masks * self._size.images > number and (next_size := self._size.smaller()) is not None:
            self._predicted *= next_size.masks * next_size.images / (self._size.masks * self._size.images)
            self._size = next_size

    def _cost(self, size: ProbeSize) -> float:
        """Seconds of a first probe. It stops by itself at its time limit, but for its first masks."""
        seconds = self.speeds.of(size, most_masks=_SURE_MASKS)
        return seconds + self.speeds.trying + _PICTURES if seconds else 0.0

    def limit(self, size: ProbeSize) -> float | None:
        """Time limit for the masks of a probe of this size that starts now, in seconds."""
        if self.allowed is None:
            return None
        beside = 0.0 if math.isnan(self.speeds.image) else self.speeds.beside(size) * size.images
        return max(self._room * (_PATIENCE if self._probes else 1.0) - beside, 1e-3)

    # --- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The size of the probes."""
        return {} if self._size is None else dataclasses.asdict(self._size)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the same size."""
        self._size = ProbeSize(**state_dict) if state_dict else None


def share_of(max_overhead: MaxOverhead) -> float | None:
    """The share of the training's time that a setting means; None for any.

    Raises:
        ValueError: If a number is not above 0.
        TypeError: If it is something else.

    Example:
        >>> share_of("auto"), share_of(0.2), share_of(None)
        (0.05, 0.2, None)
    """
    if max_overhead == "auto":
        return _USUAL_SHARE
    if max_overhead is None:
        return None
    try:
        check_number_between("max_overhead", max_overhead, 0, math.inf)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error}. 'auto' is 5%, or two seconds if that is more; None sets no limit") from None
    return max_overhead


def _smallest(wanted: ProbeSize) -> list[ProbeSize]:
    """The sizes of the fewest masks and images: with the fill if it is wanted, then without."""
    least = min(wanted.masks, _FLOOR_MASKS), min(wanted.images, _FLOOR_IMAGES)
    return [size for size in wanted.down() if (size.masks, size.images) == least]
