"""A limit of time for what runs on behalf of somebody else's template or pattern, and may never end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Expired(Exception):
    """The block took longer than it may."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises Expired where the block takes longer: Python code and `re` are interrupted, another library only when it returns.

    Steps run in the main thread of their process. Elsewhere the signal cannot be taken, and the block runs as long as it does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expired(number: int, frame: FrameType | None) -> None:
        raise Expired

    before = signal.signal(signal.SIGALRM, expired)
    outer, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, outer)  # a limit around this one begins anew
