"""SIGTERM and Ctrl-C ask once; handlers come back."""

import os
import signal

import pytest

from robust_jax.runtime import interrupt


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_and_the_handler_comes_back(number):
    before = signal.getsignal(number)
    with interrupt.Watch() as watch:
        assert not watch.requested(1)
        os.kill(os.getpid(), number)
        assert watch.requested(2)
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_stops_at_once():
    with interrupt.Watch() as watch:
        os.kill(os.getpid(), signal.SIGINT)
        assert watch.requested(1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
