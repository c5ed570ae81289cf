"""Small pictures for tests, made on the spot."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 80, height: int = 60) -> Image.Image:
    """Coarse coloured blocks with a little noise: every seed looks different."""
    r = np.random.default_rng(seed)
    blocks = (
        r.integers(0, 256, (6, 8, 3)).repeat(height // 6 + 1, 0).repeat(width // 8 + 1, 1)[:height, :width]
    )
    return Image.fromarray((blocks + r.normal(0, 8, blocks.shape)).clip(0, 255).astype(np.uint8))


def picture_folder(folder: Path, count: int) -> Path:
    """A folder of ``count`` JPEGs."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture(i).save(folder / f"{i:04d}.jpg", quality=90)
    return folder


def refuse_network(monkeypatch) -> list:
    """Make every connection but those within this machine's own processes fail; returns the list of attempts."""
    attempts: list = []
    connect = socket.socket.connect

    def guarded(self, address, *_):
        if self.family != socket.AF_UNIX:
            attempts.append(address)
            raise OSError("no network in this test")
        return connect(self, address)

    def no_names(host, *_, **__):
        attempts.append(host)
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded)
    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    return attempts
