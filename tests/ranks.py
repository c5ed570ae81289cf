"""Several processes of one run inside a test: forked, so that nothing is imported again."""

from __future__ import annotations

import faulthandler
import io
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

from mcl.engine.processes.job import joined

FORK = multiprocessing.get_context("fork")


def reserved_port() -> socket.socket:
    """A socket bound to a port that the system gives to nobody else until it is closed.

    It does not listen, and with SO_REUSEADDR on both sides rank 0 may.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("", 0))
    return reserved


def torchrun_names(rank: int, count: int) -> dict[str, str]:
    """What torchrun puts into the environment."""
    return {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}


def slurm_names(rank: int, count: int) -> dict[str, str]:
    """What srun puts into the environment."""
    return {
        "SLURM_PROCID": str(rank), "SLURM_NTASKS": str(count), "SLURM_LOCALID": str(rank),
        "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NODELIST": "127.0.0.1",
    }  # fmt: skip


def start_ranks(
    count: int, function: Callable, *args: Any, names=torchrun_names, inside: bool = True, timeout: float = 300
) -> list[tuple[Any, Any]]:
    """Start ``function(*args)`` on every rank; pairs of (process, connection)."""
    reserved, started = reserved_port(), []
    for rank in range(count):
        receiver, sender = FORK.Pipe(duplex=False)
        variables = {**names(rank, count), "MASTER_PORT": str(reserved.getsockname()[1])}
        variables.setdefault("MASTER_ADDR", "127.0.0.1")
        process = FORK.Process(target=_run, args=(sender, variables, inside, timeout, function, args), daemon=True)
        process.start()
        process.reserved_port = reserved  # as long as somebody holds the process
        sender.close()
        started.append((process, receiver))
    return started


def on_ranks(count: int, function: Callable, *args: Any, timeout: float = 300, **options) -> list[Any]:
    """``function(*args)`` of every rank, as a list; inside a group of gloo processes unless ``inside=False``."""
    results, started = [], start_ranks(count, function, *args, timeout=timeout, **options)
    for rank, (process, receiver) in enumerate(started):
        try:
            results.append(torch.load(io.BytesIO(receiver.recv_bytes()), weights_only=False))
        except EOFError:
            process.join(10)
            raise AssertionError(f"rank {rank} ended with {process.exitcode}") from None
    return results


def _run(sender, variables: dict[str, str], inside: bool, timeout: float, function: Callable, args: tuple) -> None:
    faulthandler.dump_traceback_later(timeout, exit=True)
    for name in list(os.environ):
        if name.startswith(("SLURM", "TORCHELASTIC")) or name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
            del os.environ[name]
    os.environ.update(variables)
    torch.set_num_threads(1)
    code = 0
    try:
        if inside:
            with joined("cpu"):
                result = function(*args)
        else:
            result = function(*args)
        buffer = io.BytesIO()
        torch.save(result, buffer)
        sender.send_bytes(buffer.getvalue())
    except SystemExit as error:
        code = error.code
    except BaseException as error:
        traceback.print_exc()
        code = getattr(error, "exit_code", 1)
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)
