"""What signals ask of a solver, and that handlers do not stay."""

import os
import signal
import threading

import pytest

from pycaffe_compat.solver import Action, SignalActions, handled

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")


def test_requests_come_once_and_in_order() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGHUP)
    with handled(SignalActions()) as actions:
        assert actions() is Action.NONE
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGINT)
        assert [actions(), actions(), actions()] == [Action.STOP, Action.SNAPSHOT, Action.NONE]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGHUP)) == before


def test_a_second_interrupt_does_not_wait() -> None:
    with handled(SignalActions()):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_after_the_stop_leaves_the_last_snapshot_alone() -> None:
    with handled(SignalActions()) as actions:
        os.kill(os.getpid(), signal.SIGINT)
        assert actions() is Action.STOP
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("effect", [Action.NONE, Action.SNAPSHOT])
def test_other_effects_never_interrupt(effect: Action) -> None:
    with handled(SignalActions(sigint=effect)) as actions:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert [actions(), actions()] == [effect, Action.NONE]


def test_outside_the_main_thread_nothing_is_installed() -> None:
    seen: list[object] = []

    def run() -> None:
        with handled(SignalActions()) as actions:
            seen.append(actions())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [Action.NONE]
