"""Frames of a video, read and written by OpenCV (``mcl[video]``)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mcl.data.sources.pictures import suffix_of
from mcl.errors import RunFailed, UserError, printable

SUFFIXES = frozenset([".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"])
USUAL_RATE = 25.0  # frames a second, where a file does not tell


def is_video(path: Path) -> bool:
    """Whether a file's name is that of a video."""
    return suffix_of(path.name) in SUFFIXES and path.is_file()


class Video:
    """A video to read from beginning to end.

    Attributes:
        rate: frames a second.
        frames: how many there are about; some files do not know (0), or are cut short.

    Raises:
        UserError: OpenCV is not installed, or cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        cv2 = _opencv(path)
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise UserError(f"{printable(str(path))}: OpenCV cannot read it as a video; damaged, or of a format it does not know")
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.rate = rate if 0 < rate < 1000 else USUAL_RATE
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames as uint8 (height, width, 3), RGB; once."""
        try:
            while True:
                there, frame = self._capture.read()
                if not there:
                    return
                yield np.ascontiguousarray(frame[:, :, ::-1])
        finally:
            self._capture.release()


class VideoFile:
    """An MP4 that frames of one size are added to.

    Raises:
        UserError: OpenCV is not installed.
        RunFailed: it cannot write the file.
    """

    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        cv2 = _opencv(path)
        self._writer: Any = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
        if not self._writer.isOpened():
            raise RunFailed(f"{path}: OpenCV cannot write a video of {size[0]} x {size[1]} pixels there")

    def add(self, frame: np.ndarray) -> None:
        """A frame: uint8 (height, width, 3), RGB."""
        self._writer.write(np.ascontiguousarray(frame[:, :, ::-1]))

    def close(self) -> None:
        """Complete the file."""
        self._writer.release()


def _opencv(path: Path) -> Any:
    if importlib.util.find_spec("cv2") is None:
        raise UserError(f"{printable(str(path))}: videos need OpenCV: pip install 'mcl[video]'")
    import cv2

    return cv2
