"""What the command line makes of what a command raises."""

from __future__ import annotations

import errno
import os

import pytest

from mcl.cli import main
from mcl.errors import RunFailed
from mcl.run import models


@pytest.mark.parametrize(
    "error, code, line",
    [
        (RunFailed("it broke\x1b[1m"), 3, "mcl: error: it broke\\x1b[1m"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "closed/run"), 2, "mcl: error: closed/run: Permission denied"),
        (KeyboardInterrupt(), 130, "mcl: stopped"),
        (BrokenPipeError(), 141, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_line_and_an_exit_code(monkeypatch, capsys, error, code, line):
    def command(_):
        raise error

    monkeypatch.setattr(models, "models", command)
    assert main(["models"]) == code
    assert capsys.readouterr().err.splitlines() == ([line] if line else [])
