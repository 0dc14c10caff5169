"""Ctrl-C, SIGTERM and the like as a flag, so that training can save before it stops."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

from ..errors import LongtailError

# What asks a run to stop: a person, `kill` and `timeout`, a terminal that closes, SLURM's --signal=USR1.
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
_TOLD = b"\nStopping after this step, to save. Ctrl-C again ends at once, without saving.\n"
_PATIENCE = 1.0  # seconds that the second Ctrl-C gives a step to end by itself


class Interrupted(LongtailError):  # noqa: N818
    """A run was asked to stop, and saved what it had first. `then`: how to go on. The exit code is the shell's: 128 + signal."""

    def __init__(self, number: int, then: str) -> None:
        super().__init__(f"Stopped by {signal.Signals(number).name}. {then}")
        self.exit_code = 128 + number


class StopRequest:
    """While entered, the signals of `STOPPING` set `number` instead of ending the process; a second SIGINT ends it at once.

    A step can be a single long call into PyTorch, during which Python does not look at signals. So a thread is told of
    them too: it answers the first Ctrl-C, and sees to the second.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._left = threading.Event()

    def __enter__(self) -> StopRequest:
        # Python delivers signals to the main thread only; elsewhere there is nothing to catch.
        main = threading.current_thread() is threading.main_thread()
        # nohup has the end of its terminal ignored
        watched = (
            [n for n in STOPPING if n == signal.SIGINT or signal.getsignal(n) is not signal.SIG_IGN] if main else ()
        )
        self._previous = {number: signal.signal(number, self._remember) for number in watched}
        self._writer = -1
        if main and os.name == "posix":
            reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._woken = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._writer >= 0:
            signal.set_wakeup_fd(self._woken)
            os.close(self._writer)  # which ends the thread

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    def _watch(self, reader: int) -> None:
        interrupts = 0
        while number := os.read(reader, 1):
            interrupts += number[0] == signal.SIGINT
            if interrupts == 1 and number[0] == signal.SIGINT:
                os.write(2, _TOLD)
            elif interrupts > 1 and not self._left.wait(_PATIENCE):
                os._exit(128 + signal.SIGINT)
        os.close(reader)
