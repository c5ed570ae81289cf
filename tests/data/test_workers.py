"""The thread of a loader process that hands tensors over: silent when the training process leaves, else not."""

import subprocess
import sys

import pytest

LEAVING = """
import os, socket
from multiprocessing.resource_sharer import DupFd
from mcl.data.workers import prepare_worker

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
from mcl.data.workers import prepare_worker

prepare_worker(0)
try:
    open("/no/such/file")
except OSError:
    sys.excepthook(*sys.exc_info())
"""


def errors_of(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("sent", [b"", b"\0\0", b"\0\0\0\x14half of it"])
def test_a_peer_that_leaves_in_the_middle_leaves_no_traceback(sent):
    assert errors_of(LEAVING.format(sent=sent)) == ""


def test_other_errors_are_shown():
    assert "FileNotFoundError" in errors_of(FAILING)
