"""What every label format is turned into when it is read: COCO's dictionary, with a few keys more.

What is not COCO's is kept for the sets' own metrics (mcl.detect.metrics). Besides COCO's own keys (``images``, ``annotations``, ``categories``; boxes as [x, y, width, height] in pixels, from 0):

====================================  ==================================================================================
``measured_as``                       of the set: whose official metric it has (``coco``, ``voc``, ``lvis``, ``cityscapes``)
``difficult``                         of an annotation: VOC's; trained on, neither asked for nor wrong when measuring
``frequency``                         of a category: LVIS's ``r``, ``c`` or ``f`` (in < 10, < 100, more training images)
``neg_category_ids``                  of an image: LVIS's, categories that were looked for and are not in it
``not_exhaustive_category_ids``       of an image: LVIS's, categories of which some objects are not annotated
``void``                              of an image: RLE of pixels that count neither way (Cityscapes)
``where``                             of an annotation: its file and line, for messages; not written to a JSON
====================================  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mcl.errors import UserError

Role = Literal["train", "val"]
METRICS = ("coco", "voc", "lvis", "cityscapes")
#: keys of LVIS's images
CATEGORY_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


class Problems:
    """What is wrong with labels: the first mistake ends the reading, or all are kept and their entries left out.

    Args:
        keep: go on, and keep what was found in ``found``.
    """

    def __init__(self, keep: bool = False) -> None:
        self.keep, self.found = keep, []

    @contextmanager
    def entry(self) -> Iterator[None]:
        """A block that reads one entry; with ``keep`` a ``UserError`` of it is noted and goes no further."""
        try:
            yield
        except UserError as error:
            if not self.keep:
                raise
            self.found.append(str(error))


@dataclass(frozen=True)
class Place:
    """Where labels are asked to be read from.

    Attributes:
        path: file or folder.
        split: what follows ``#``: a set's part such as ``trainval``; None: the one of ``role``.
        role: what it is read for.
        images: folder that file names start from; None: as the format has it.
        problems: what to do about mistakes.
    """

    path: Path
    split: str | None = None
    role: Role = "train"
    images: Path | None = None
    problems: Problems = field(default_factory=Problems)


@dataclass
class Labels:
    """Labels as they were read, in COCO's terms.

    Attributes:
        path: named in messages.
        root: folder that every ``file_name`` starts from.
        content: the dictionary (see the module).
        notes: what was left out or put right, for people.
    """

    path: Path
    root: Path
    content: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def read_text(path: Path, mend: str) -> str:
    """A label file's text.

    Raises:
        UserError: it cannot be read, or is no UTF-8; ``mend`` says what to do.
    """
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; {mend}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; {mend}") from None
