"""Which process of how many this is, from what torchrun or SLURM put into the environment. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mcl.errors import UserError

FIRST_PORT, PORTS = 20000, 10000


@dataclass(frozen=True)
class Place:
    """A process among those of its run.

    Attributes:
        rank: its number, from 0.
        count: of processes.
        local_rank: its number on its machine: the GPU it takes.
        address, port: where rank 0's machine listens.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    address: str = "127.0.0.1"
    port: int = 29500


def find_place(environment: Mapping[str, str] | None = None) -> Place:
    """The place that the environment gives: torchrun's variables first, then those of ``srun``.

    A SLURM batch script itself (without ``srun``) is one process, whatever the job's number of tasks.

    Raises:
        UserError: variables that contradict each other or are no numbers.
    """
    env = os.environ if environment is None else environment
    if "RANK" in env and "WORLD_SIZE" in env:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif "SLURM_PROCID" in env and not ("SLURM_JOB_ID" in env and "SLURM_STEP_ID" not in env):
        count = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"
        names = ("SLURM_PROCID", count, "SLURM_LOCALID")
    else:
        return Place()
    rank, count = _number(env, names[0]), _number(env, names[1], 1)
    local_rank = _number(env, names[2], rank)
    if not 0 <= rank < count:
        raise UserError(f"environment: {names[0]}={rank} with {names[1]}={count}: ranks go from 0 to {count - 1}")
    if count == 1:
        return Place()
    port = FIRST_PORT + _number(env, "SLURM_JOB_ID", 0) % PORTS
    return Place(rank, count, local_rank, _address(env), _number(env, "MASTER_PORT", port))


def rank_by_environment() -> int:
    """The rank that the environment gives, 0 if it makes no sense."""
    try:
        return find_place().rank
    except UserError:
        return 0


def first_host(nodes: str) -> str:
    """The first machine of a SLURM node list: ``gpu[007-009,12],cpu1 -> gpu007``."""
    match = re.match(r"([^\[,]*)(?:\[(\w+)[^\]]*\])?([^\[,]*)", nodes.strip())
    return "".join(part or "" for part in match.groups())


def _address(env: Mapping[str, str]) -> str:
    if address := env.get("MASTER_ADDR"):
        return address
    if nodes := env.get("SLURM_STEP_NODELIST") or env.get("SLURM_NODELIST") or env.get("SLURM_JOB_NODELIST"):
        return first_host(nodes)
    raise UserError("environment: several processes, and neither MASTER_ADDR nor SLURM_NODELIST says where rank 0 is")


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise UserError(f"environment: {name}={text!r} is not a number") from None
