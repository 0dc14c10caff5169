"""What a person sees while a run trains: a live progress bar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..engine.reporter import Reporter


class LiveReporter(Reporter):
    """A progress bar per stage, with the latest loss and accuracy; without a terminal, a line now and then."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress: Progress | None = None
        self.task: TaskID | None = None
        self.facts = ""

    def begin(self, label: str, total: int, done: int = 0) -> None:
        self.facts = ""
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            console=self.console,
            disable=not self.console.is_terminal,
            refresh_per_second=4,
        )
        self.task = self.progress.add_task(label, total=total, completed=done, facts="")
        self.progress.start()

    def advance(self, steps: int = 1) -> None:
        assert self.progress is not None
        assert self.task is not None
        self.progress.advance(self.task, steps)

    def epoch(self, record: Mapping[str, Any]) -> None:
        assert self.progress is not None
        assert self.task is not None
        scores = [f"{name} {100 * record[name]['top1']:.1f} %" for name in ("val", "test") if name in record]
        # A stage without training has neither losses nor a speed.
        loss = f"loss {sum(record['loss'].values()):.3f}" if record["loss"] else ""
        if scores:
            self.facts = scores[0]
            if not self.console.is_terminal:
                speed = [f"{record['images_per_second']:.0f} images/s"] if "images_per_second" in record else []
                facts = ", ".join([*filter(None, [loss]), scores[0], *speed])
                self.console.print(f"  epoch {record['epoch'] + 1}: {facts}", highlight=False)
        self.progress.update(self.task, facts=f"{loss} {self.facts}")

    def end(self) -> None:
        assert self.progress is not None
        self.progress.stop()
