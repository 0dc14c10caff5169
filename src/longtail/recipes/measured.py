"""What this project measured of its methods, as `python -m benchmarks.measured` sums it up from the committed results."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Measured(NamedTuple):
    """A method's accuracy in percent on the test images at the last epoch: the mean over seeds, and of top-1 the standard
    deviation (None: one seed). `where`: data, network and protocol."""

    method: str
    where: str
    epochs: int
    seeds: int
    top1: float
    deviation: float | None
    many: float
    medium: float
    few: float

    @property
    def cells(self) -> tuple[str, ...]:
        """As tables show it: where, epochs, seeds, top-1, and the shots."""
        spread = "" if self.deviation is None else f" ± {self.deviation}"
        shots = (str(value) for value in (self.many, self.medium, self.few))
        return self.where, str(self.epochs), str(self.seeds), f"{self.top1}{spread}", *shots


HEADINGS = ("where", "epochs", "seeds", "top-1 %", "many", "medium", "few")


@cache
def all_measured() -> tuple[Measured, ...]:
    """Every line of the packaged file."""
    text = (files(__package__) / "measured.jsonl").read_text()
    return tuple(Measured(**json.loads(line)) for line in text.splitlines())


def measured(method: str) -> list[Measured]:
    """What was measured of `method`: nothing, for many."""
    return [line for line in all_measured() if line.method == method]
