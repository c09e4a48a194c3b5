"""Keep the probes' time under a given share of the training's."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fitb_callbacks.utils.validation import check_number_between

__all__ = ["ProbeSize", "TimeBudget"]

_FLOOR_MASKS = 16
_FLOOR_IMAGES = 8
_SURE_MASKS = 64
"""A probe makes so many before it looks at its time limit."""

_PATIENCE = 1.5
"""How far a probe may exceed its prediction before the next ones are made smaller; times vary."""


@dataclass(frozen=True)
class ProbeSize:
    """How much a probe does: masks an image, and images."""

    masks: int
    images: int

    def smaller(self) -> ProbeSize | None:
        """The next smaller size: fewer masks down to 16, then fewer images down to 8; None below.

        Example:
            >>> size, sizes = ProbeSize(256, 40), []
            >>> while size is not None:
            ...     sizes.append((size.masks, size.images))
            ...     size = size.smaller()
            >>> sizes
            [(256, 40), (128, 40), (64, 40), (32, 40), (16, 40), (16, 20), (16, 10), (16, 8)]
        """
        if self.masks > _FLOOR_MASKS:
            return dataclasses.replace(self, masks=max(_FLOOR_MASKS, self.masks // 2))
        if self.images > _FLOOR_IMAGES:
            return dataclasses.replace(self, images=max(_FLOOR_IMAGES, self.images // 2))
        return None


class TimeBudget:
    """Decides how large a probe may be, and whether there is time for one at all.

    All that the callback does may have taken a share of the time that the training itself has taken so far. The first
    probe runs as soon as there is time for the smallest one, or at the last chance; in the size that fits. Later ones
    keep to its size, so that their scores compare; the size only ever becomes smaller. If there is no time for a probe,
    it is left out.

    Args:
        max_overhead: The share, above 0. None sets no limit.

    Raises:
        ValueError: If the share is not above 0.
        TypeError: If it is no number.

    Example:
        >>> budget = TimeBudget(0.05)
        >>> budget.trained(seconds=100)
        >>> budget.measure(ProbeSize(8, 8), seconds=0.1)  # a try: 64 masked images took 0.1 s
        >>> size = budget.size(ProbeSize(256, 40))
        >>> budget.due(size)
        (True, '')
        >>> size, budget.allowed
        (ProbeSize(masks=256, images=40), 5.0)
        >>> budget.spend(size, seconds=5.0)
        >>> budget.trained(seconds=10)
        >>> budget.due(size)
        (False, 'max_overhead=0.05 leaves 0.5 s, and a probe takes about 5 s')
    """

    def __init__(self, max_overhead: float | None) -> None:
        if max_overhead is not None:
            check_number_between("max_overhead", max_overhead, 0, math.inf)
        self.max_overhead = max_overhead
        self._size: ProbeSize | None = None
        self.begin()

    def begin(self) -> None:
        """Start a run's clock."""
        self._training = self._spent = 0.0
        self._interval = 0.0
        self.last_overhead = math.nan
        """What share of the training time since the probe before it the last probe took; NaN if that is not known."""
        self._last: float | None = None
        self._per_masked_image = math.nan
        self._beside = 0
        self._predicted = math.nan
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
        return None if self.max_overhead is None else max(0.0, self.max_overhead * self._training - self._spent)

    # --- the decisions ---------------------------------------------------------------------------------------------

    def measure(self, size: ProbeSize, seconds: float, *, gradients_beside_masks: int = 0) -> None:
        """Take the speed from a try of a few masks and images.

        Args:
            size: Of the try.
            seconds: The time it took.
            gradients_beside_masks: What a probe does with each image beside its masks, as so many masks' work.
        """
        self._beside = gradients_beside_masks
        self._per_masked_image = seconds / (size.masks * size.images)

    def size(self, wanted: ProbeSize) -> ProbeSize:
        """How large the probes are: as wanted, or what there is time for; kept from the first probe on."""
        if self._size is not None:
            return ProbeSize(min(wanted.masks, self._size.masks), min(wanted.images, self._size.images))
        fitting = wanted
        allowed = self.allowed
        # A probe stops by itself at its time limit, but for its first masks
        while allowed is not None and self._cost(fitting) > allowed and (next_size := fitting.smaller()) is not None:
            fitting = next_size
        return fitting

    def due(self, size: ProbeSize, *, wanted_now: bool = False) -> tuple[bool, str]:
        """Whether there is time for a probe of this size, and why not.

        Args:
            size: Of the probe.
            wanted_now: Whether the first probe cannot wait: this is the last chance, or its scores are monitored.
        """
        allowed = self.allowed
        if allowed is None or (self._probes == 0 and wanted_now):
            return True, ""
        predicted = self._cost(size) if math.isnan(self._predicted) else self._predicted
        if predicted <= allowed:
            return True, ""
        self.waits = self._probes == 0
        return (
            False,
            f"max_overhead={self.max_overhead} leaves {allowed:.2g} s, and a probe takes about {predicted:.2g} s",
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
        made = ProbeSize(min(size.masks, masks_made or size.masks), size.images)
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
        if math.isnan(self._per_masked_image):
            return 0.0
        return self._per_masked_image * (min(size.masks, _SURE_MASKS) + self._beside) * size.images

    def limit(self, size: ProbeSize) -> float | None:
        """Time limit for the masks of a probe of this size that starts now, in seconds."""
        if self.allowed is None:
            return None
        beside = 0.0 if math.isnan(self._per_masked_image) else self._per_masked_image * self._beside * size.images
        return max(self.allowed * (_PATIENCE if self._probes else 1.0) - beside, 1e-3)

    # --- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The size of the probes."""
        return {} if self._size is None else dataclasses.asdict(self._size)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the same size."""
        self._size = ProbeSize(**state_dict) if state_dict else None
