"""Training that has so many seconds: it has come as far as its steps say, or the clock, whichever is further."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Deadline:
    """When training has to end, and how much of its time is gone."""

    def __init__(self, seconds: float | None, spent: float, now: Callable[[], float] = time.monotonic) -> None:
        """`seconds` from now on (None: as long as it takes), less those that a run which goes on has `spent`."""
        self._now = now
        self._end = math.inf if seconds is None else now() + seconds - spent
        self._begun = now()

    def begin(self, spent: float) -> None:
        """Steps begin now, or go on after so many seconds of them: what came before is not their time."""
        self._begun = self._now() - spent

    def share(self) -> float:
        """How much of the steps' time is gone, 0 to 1."""
        length = self._end - self._begun
        return min((self._now() - self._begun) / length, 1.0) if length > 0 else 1.0

    def over(self) -> bool:
        """Whether all of it is."""
        return self._now() >= self._end

    def position(self, epoch: int, step: int, epochs: int, steps: int) -> tuple[int, float]:
        """Epoch and step where training is by steps or by the clock, whichever is further: what the schedules go by."""
        by_clock = self.share() * epochs
        if by_clock <= epoch + step / steps:
            return epoch, step
        whole = min(int(by_clock), epochs - 1)
        return whole, (by_clock - whole) * steps
