"""The thread of a loader process that hands tensors over: silent when the training process leaves, else not."""

import subprocess
import sys

import pytest

LEAVING = """
import os, socket
from multiprocessing.resource_sharer import DupFd
from mcl.data.loading.workers import prepare_worker

prepare_worker(0)
shared = DupFd(1)
with socket.socket(socket.AF_UNIX) as other:
    other.connect(shared._id[0])
    other.recv(4096)  # a challenge: with it unread, the connection would be reset instead of ended
    other.sendall({sent!r})
os.close(shared.detach())  # the thread has got over it and serves the next one
"""

FAILING = """
import sys
from mcl.data.loading.workers import prepare_worker

prepare_worker(0)
try:
    open("/no/such/file")
except OSError:
    sys.excepthook(*sys.exc_info())
"""


def errors_of(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("sent", [b"", b"\0\0", b"\0\0\0\x14half of it"])
def test_a_peer_that_leaves_in_the_middle_leaves_no_traceback(sent):
    assert errors_of(LEAVING.format(sent=sent)) == ""


def test_other_errors_are_shown():
    assert "FileNotFoundError" in errors_of(FAILING)
STARTING = """
import os, signal, sys, time
from multiprocessing import util
import torch
from mcl.data.loading.loader import step_batches
from mcl.signals import StopWaiting, catch_signals

def signalled(_):  # in a loader process, before it has done anything
    for name in ("SIGINT", "SIGUSR1"):
        os.kill(os.getpid(), getattr(signal, name))

def mask(_):
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())

class Numbers:
    def __len__(self):
        return 8
    def __getitem__(self, key):
        return torch.tensor([len(mask(None)), signal.getsignal(signal.SIGINT) == signal.SIG_IGN])

util.register_after_fork(os, signalled)
with catch_signals() as caught:
    stream = step_batches(Numbers(), 2, 0, 0, 3, 2)
    with caught.while_waiting():
        assert [batch.tolist() for batch in stream] == [[[0, 1]] * 2] * 3
assert caught.number is None and not mask(None)
"""


def test_a_signal_to_all_processes_while_loaders_start_leaves_no_traceback():
    """They have the training's handlers until they have their own."""
    assert errors_of(STARTING) == ""
