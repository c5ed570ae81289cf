"""Labels from folders: a picture's class is the folder that it lies in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

from mcl.data.sources.pictures import Picture
from mcl.errors import UserError, did_you_mean, printable

LARGEST = 2**62  # numbers of classes are below it


def class_of(picture: Picture) -> str:
    """Name of the folder that a picture lies in (in a shard: inside of it); empty if there is none."""
    parts = PurePath(str(picture)).parts
    return "" if len(parts) < 2 or parts[-2].endswith(".tar") else parts[-2]


def class_number(picture: Picture) -> int:
    """A number made from the path of the folder that a picture lies in, the same in every process and run.

    Nobody has to know all folders (two of a million folders share a number with a probability of 1e-7).
    """
    folder = str(PurePath(str(picture)).parent)
    digest = hashlib.blake2b(folder.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % LARGEST


def class_field(picture: Picture, number: int) -> Mapping[str, int]:
    """``{"class": number of the picture's folder}``, for ``Wanted.fields``."""
    return {"class": class_number(picture)}


def class_names(pictures: Sequence[Picture], known: Sequence[str] = ()) -> list[str]:
    """The classes of pictures, sorted; or those that are known, in their order.

    Raises:
        UserError: a picture lies in no folder, in one that is not known, or all in one folder.
    """
    first: dict[str, Picture] = {}
    for picture in pictures:
        first.setdefault(class_of(picture), picture)
    if "" in first:
        raise UserError(f"{printable(str(first['']))} lies in no class folder (give CLASS/picture.jpg ...)")
    if known:
        if other := next((name for name in first if name not in set(known)), None):
            raise UserError(
                f"{printable(str(first[other]))} is of class {printable(other)!r}, which --method.classes "
                f"does not have{did_you_mean(other, known)}"
            )
        return list(known)
    if len(first) < 2:
        raise UserError(
            f"all images lie in one folder, {printable(next(iter(first)))!r}; labels need a folder for each class"
        )
    return sorted(first)


@dataclass(frozen=True)
class ClassLabel:
    """(picture, number) -> ``{"label": its class's place among ``classes``}``."""

    classes: tuple[str, ...]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.classes)}

    def __call__(self, picture: Picture, number: int) -> dict[str, int]:
        return {"label": self._places[class_of(picture)]}
