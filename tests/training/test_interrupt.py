import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from remdm.training.interrupt import StopRequest


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_one_interrupts(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        send(number)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            send(number)
    assert signal.getsignal(number) == before


def test_what_is_under_way_is_finished():
    done = []
    with StopRequest() as stop:
        for step in range(5):
            send(signal.SIGINT) if step == 1 else None
            done.append(step)
            if stop.requested:
                break
    assert done == [0, 1]


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(OSError, match="disk"), StopRequest():
        raise OSError("disk")
    assert signal.getsignal(signal.SIGINT) == before


def test_in_another_thread_nothing_is_installed():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work():
        with StopRequest() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


LOOP = """
import sys, time
from remdm.training.interrupt import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.01)
print("saved", flush=True)
"""


def test_a_process_is_told_and_stops_cleanly():
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == "saved\n"
    assert "stopping after the current step" in err
