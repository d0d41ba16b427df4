"""What a signal does to a running training: stop it, take a snapshot, or nothing.

A handler only makes a note. The solver asks for it between two iterations (and between two batches of a
test), so that whatever follows finds the weights, the history and the data in step with each other.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from types import FrameType


class Action(Enum):
    """What the solver is asked to do."""

    NONE = "none"
    STOP = "stop"
    SNAPSHOT = "snapshot"


class SignalActions:
    """Calling it gives what signals have asked for since the last call: one request a call, SIGINT's first.

    A second SIGINT while the first one's "stop" has not been given yet raises KeyboardInterrupt at once, so
    that an iteration that hangs can still be left. After that the solver writes its last snapshot, which one more
    SIGINT does not disturb, but two do.
    """

    def __init__(self, sigint: Action = Action.STOP, sighup: Action = Action.SNAPSHOT) -> None:
        self.effects = {signal.SIGINT: sigint}
        if hasattr(signal, "SIGHUP"):  # POSIX only
            self.effects[signal.SIGHUP] = sighup
        self._pending: set[int] = set()

    def __call__(self) -> Action:
        for number, effect in self.effects.items():
            if number in self._pending:
                self._pending.discard(number)
                if effect is not Action.NONE:
                    return effect
        return Action.NONE

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if number == signal.SIGINT and self.effects[signal.SIGINT] is Action.STOP and number in self._pending:
            raise KeyboardInterrupt
        self._pending.add(number)


@contextmanager
def handled(actions: SignalActions) -> Iterator[SignalActions]:
    """Let ``actions`` receive the signals while the block runs; then put the handlers from before back.

    Python delivers signals to the main thread only: elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield actions
        return
    before = {number: signal.signal(number, actions.handle) for number in actions.effects}
    try:
        yield actions
    finally:
        for number, handler in before.items():
            # None: a handler that was not installed from Python and cannot be put back by it
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
