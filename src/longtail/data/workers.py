"""What keeps the processes that decode images out of the user's way: signals meant for the run, and ends of their own."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

from ..errors import LongtailError


@contextmanager
def _signals_kept_from_workers() -> Iterator[None]:
    """Processes begun within are not ended by a signal to all of them (Ctrl-C, `timeout`, SLURM): the main one, which saves
    and then ends them, still needs their images."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def results_of(loader: DataLoader) -> Iterator[Iterator[Any]]:
    """What its worker processes bring, in order. They have ended afterwards, whatever happened."""
    with _signals_kept_from_workers():
        results: Any = iter(loader)
    try:
        yield results
    finally:
        workers = getattr(results, "_workers", ())
        if workers:
            results._shutdown_workers()
        for worker in workers:
            if worker.is_alive():  # it waits for a lock of another that was killed, and SIGTERM does not reach it
                worker.kill()


def keep_quiet(_: int) -> None:
    """In a worker: what it meets while reading is returned as a value, and what is left to print comes of an end that the
    main process tells of."""
    sys.excepthook = lambda *_: None
    threading.excepthook = lambda *_: None


@contextmanager
def telling_of_dead_workers() -> Iterator[None]:
    """Raise `LongtailError` where a worker process ends by itself: PyTorch has an error of its own, raised at any place."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:  # the latter where it ended while it was handing over
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        reason = str(error).partition("\n")[0].rstrip(". ") or type(error).__name__
        raise LongtailError(
            f"A process that reads images ended by itself: {reason}. Is memory short? Try "
            "fewer data.workers. What was saved is kept: go on with --resume."
        ) from error
