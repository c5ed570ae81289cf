"""Class labels for whoever has them: the folder that a picture lies in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import PurePath

from mcl.data.sources.pictures import Picture

LARGEST = 2**62  # labels are below it


def class_of(picture: Picture) -> Mapping[str, int]:
    """``{"class": number}`` of the folder that a picture lies in: the same in every process and run.

    A number made from the folder's path, so that nobody has to know all folders (two of a million folders share
    one with a probability of 1e-7).
    """
    folder = str(PurePath(str(picture)).parent)
    digest = hashlib.blake2b(folder.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return {"class": int.from_bytes(digest, "little") % LARGEST}
