"""Damaged and lying pictures, made from a number; run as a program it decodes a range of them under limits.

    python fuzz_images.py FIRST COUNT

prints JSON: how many were decoded or unreadable, by format and by reason, the slowest, and the peak memory. A crash or
a hang ends the process instead.
"""

from __future__ import annotations

import ctypes
import faulthandler
import io
import json
import re
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from mcl.data.loading.decode import UnreadableImage, read_image

MAX_PIXELS = 1_000_000
ADDRESS_SPACE = 1500 * 2**20  # bytes; the interpreter with Pillow and numpy takes most of a third of it
LIBC = ctypes.CDLL(None)
HANG = 120  # seconds of one picture after which the process ends with a traceback; a busy machine is no hang
INTERESTING = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def originals() -> list[tuple[str, bytes]]:
    """(format, file) of small sound pictures: all formats that are read, in several modes."""
    r = np.random.default_rng(0)
    photo = Image.fromarray(r.integers(0, 256, (7, 9, 3), np.uint8).repeat(5, 0).repeat(7, 1))  # 63 x 35
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    deep = Image.fromarray(r.integers(0, 65536, (30, 40)).astype(np.uint16))
    kinds = [
        ("JPEG", photo, {"quality": 80, "exif": exif}), ("JPEG", photo, {"progressive": True}),
        ("JPEG", photo.convert("CMYK"), {}), ("JPEG", photo.convert("L"), {"restart_marker_blocks": 2}),
        ("PNG", photo, {}), ("PNG", photo.convert("RGBA"), {}), ("PNG", photo.convert("P"), {"transparency": 3}),
        ("PNG", deep, {}), ("WEBP", photo, {}), ("WEBP", photo.convert("RGBA"), {"lossless": True}),
        ("WEBP", photo, {"save_all": True, "append_images": [photo.rotate(9)]}),
        ("TIFF", photo, {}), ("TIFF", photo, {"compression": "tiff_lzw"}), ("TIFF", deep, {}),
        ("TIFF", photo, {"compression": "tiff_adobe_deflate"}), ("TIFF", photo, {"compression": "jpeg"}),
        ("TIFF", photo.convert("1"), {"compression": "group4"}), ("GIF", photo.convert("P"), {}),
        ("BMP", photo, {}), ("PPM", photo, {}), ("JPEG2000", photo, {}),
    ]  # fmt: skip
    files = []
    for name, image, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, name, **options)
        files.append((name, buffer.getvalue()))
    return files


def mutant(number: int, files: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    """Picture ``number``: (format it was made from, damaged file)."""
    r = np.random.default_rng([number, 1])
    name, whole = files[number % len(files)]
    data = bytearray(whole)
    change = ("flip", "flip", "overwrite", "truncate", "cut", "repeat", "splice", "numbers", "lie", "bomb")[
        int(r.integers(10))
    ]
    if change == "flip":
        for place in r.integers(0, len(data), int(2 ** r.integers(0, 7))):
            data[place] ^= 1 << int(r.integers(8))
    elif change == "overwrite":
        start, length = int(r.integers(len(data))), int(2 ** r.integers(0, 8))
        data[start : start + length] = r.integers(0, 256, length, np.uint8).tobytes()
    elif change == "truncate":
        del data[int(r.integers(len(data))) :]
    elif change == "cut":
        start = int(r.integers(len(data)))
        del data[start : start + int(2 ** r.integers(0, 9))]
    elif change == "repeat":
        start, length = int(r.integers(len(data))), int(2 ** r.integers(0, 9))
        data[start:start] = data[start : start + length] * int(2 ** r.integers(0, 11))
    elif change == "splice":
        other = files[int(r.integers(len(files)))][1]
        data = data[: int(r.integers(len(data)))] + other[int(r.integers(len(other))) :]
    elif change == "numbers":
        for _ in range(int(r.integers(1, 4))):
            width, order = int(r.choice([1, 2, 4])), str(r.choice(["little", "big"]))
            start = int(r.integers(max(1, min(len(data) - 4, 400))))
            value = INTERESTING[int(r.integers(len(INTERESTING)))] & (256**width - 1)
            data[start : start + width] = value.to_bytes(width, order)
    elif change == "lie":
        data = bytearray(lie(name, bytes(data), *(int(2 ** r.uniform(0, 31.9)) for _ in range(2))))
    else:
        name, data = bomb(r)
    if name == "PNG" and r.integers(4):
        data = with_checksums(bytes(data))
    return name, bytes(data)


def with_checksums(png: bytes) -> bytes:
    """The same chunks with right checksums, so that damage gets past the first look."""
    out, place = png[:8], 8
    while place + 12 <= len(png):
        length = min(struct.unpack(">I", png[place : place + 4])[0], len(png) - place - 12)
        chunk = png[place + 4 : place + 8 + length]
        out += png[place : place + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        place += 12 + length
    return out + png[place:]


def lie(name: str, data: bytes, width: int, height: int) -> bytes:
    """The same file, its header saying another size."""
    if name == "PNG":
        header = struct.pack(">II", width, height) + data[24:29]
        return data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]
    if name == "JPEG" and (frame := re.search(rb"\xff[\xc0\xc2]..\x08", data, re.DOTALL)):
        return data[: frame.end()] + struct.pack(">HH", height & 65535, width & 65535) + data[frame.end() + 4 :]
    if name == "GIF":
        return data[:6] + struct.pack("<HH", width & 65535, height & 65535) + data[10:]
    if name == "BMP":
        return data[:18] + struct.pack("<II", width, height) + data[26:]
    if name == "PPM":
        return data.replace(b"63 35", b"%d %d" % (width, height), 1)
    if name == "TIFF":
        for tag, value in ((256, width), (257, height)):
            place = data.find(struct.pack("<H", tag))
            if place > 0:
                data = data[: place + 2] + struct.pack("<HII", 4, 1, value) + data[place + 12 :]
        return data
    place = max(data.find(b"VP8X") + 12, data.find(b"ihdr") + 4)  # WebP's canvas, JPEG 2000's header
    return data[:place] + struct.pack(">II", height, width) + data[place + 8 :]


def bomb(r: np.random.Generator) -> tuple[str, bytearray]:
    """A small file of a large even picture, or of many passes over one."""
    kind, side = int(r.integers(4)), int(r.integers(900, 4000))
    buffer = io.BytesIO()
    if kind == 0:
        Image.new("1", (side, side)).save(buffer, "PNG")
    elif kind == 1:
        Image.new("L", (side, side)).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    elif kind == 2:
        Image.new("P", (side, side)).save(buffer, "WEBP", lossless=True, method=0)
    else:
        return "JPEG", bytearray(many_scans(int(r.integers(100, 3000))))
    return ("PNG", "TIFF", "WEBP")[kind], bytearray(buffer.getvalue())


def many_scans(scans: int, side: int = 900) -> bytes:
    """A progressive JPEG whose last scan is there many times over."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def run(first: int, count: int) -> dict:
    """Decode mutants ``first .. first + count - 1`` from files and from memory in turn."""
    files = originals()
    for _, data in files:
        read_image(io.BytesIO(data))  # decoders are loaded, and all formats are read
    counted, reasons, wrong = Counter(), Counter(), []
    slowest, grown = (0.0, -1), (0.0, -1)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            name, data = mutant(number, files)
            path = Path(folder, "x")
            path.write_bytes(data)
            faulthandler.dump_traceback_later(HANG, exit=True)
            LIBC.malloc_trim(0)  # what was freed before is not to hide what is taken now
            before = memory("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            started = time.process_time()
            try:
                at_least = (16, 16) if number % 3 else None
                image = read_image(path if number % 2 else io.BytesIO(data), at_least, max_pixels=MAX_PIXELS)
                counted[f"{name} decoded"] += 1
                if image.mode != "RGB" or image.width * image.height > MAX_PIXELS:
                    wrong.append((number, f"{image.mode} {image.size}"))
            except UnreadableImage as error:
                counted[f"{name} unreadable"] += 1
                reason = str(error)
                reasons[re.sub(r"\d[\d,]*", "N", reason)[:40]] += 1
                if not reason or not reason.isprintable() or len(reason) > 200 or "memory" in reason:
                    wrong.append((number, reason))
            except BaseException as error:
                wrong.append((number, repr(error)))
            faulthandler.cancel_dump_traceback_later()  # the time to make the next one is not meant
            slowest = max(slowest, (time.process_time() - started, number))
            grown = max(grown, (memory("VmHWM") - before, number))
    return {
        "counted": dict(sorted(counted.items())), "reasons": dict(reasons.most_common(12)), "wrong": wrong,
        "slowest": slowest, "grown_mb": grown,
    }  # fmt: skip


def memory(kind: str) -> float:
    """A figure of /proc/self/status in MB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(kind)) / 1024


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    print(json.dumps(run(*map(int, sys.argv[1:3]))))
