"""Stop a run by SIGINT or SIGTERM without losing a step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from hmc_fast.progress import say


@contextmanager
def stop_signals(quiet: bool) -> Iterator[Callable[[], bool]]:
    """While inside, SIGINT and SIGTERM ask for a stop after the step; a second one stops at
    once."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        with suppress(RuntimeError):  # the signal came in the middle of a print
            say("stopping after this step, with a checkpoint; once more stops at once", quiet)

    if threading.current_thread() is not threading.main_thread():  # where none can be taken
        yield lambda: False
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
