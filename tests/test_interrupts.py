"""Interrupts wait for a place where they break nothing off."""

import os
import signal
import threading

import pytest

from rlhf_utils.interrupts import at_stops, deferred, stop


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_waits_for_the_next_stop():
    done = []
    with pytest.raises(KeyboardInterrupt), at_stops():
        stop()
        press()
        done.append("the line after it")
        stop()
        done.append("never")
    assert done == ["the line after it"]


def test_an_interrupt_waits_for_the_end_and_a_second_one_does_not():
    done = []
    with pytest.raises(KeyboardInterrupt), at_stops():
        press()
        done.append("all")
    with pytest.raises(KeyboardInterrupt), at_stops():
        press()
        press()
        done.append("never")
    assert done == ["all"]
    stop()  # none waits any more
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_however_many_interrupts_wait_for_the_end_of_what_must_be_whole():
    done = []
    with pytest.raises(KeyboardInterrupt), deferred():
        press()
        press()
        done.append("all")
    assert done == ["all"]
    with pytest.raises(KeyboardInterrupt), at_stops():
        with deferred():
            press()
        done.append("it still waits for a stop")
        stop()
    assert len(done) == 2


def test_other_threads_are_left_alone():
    done = []

    def work():
        with at_stops(), deferred():
            done.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [before]
