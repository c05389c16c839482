"""What an archive has to store of a change: the blocks as they were before, each compressed by itself.

libzstd comes with nearly every system, a module for it only with Python 3.14: hence ctypes.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from measure import MIB
from noise import BLOCK

LEVEL = 1


@functools.cache
def library() -> ctypes.CDLL:
    zstd = ctypes.CDLL("libzstd.so.1")
    zstd.ZSTD_compress.argtypes = (
        ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int,
    )  # fmt: skip
    zstd.ZSTD_compress.restype = ctypes.c_size_t
    zstd.ZSTD_isError.argtypes = (ctypes.c_size_t,)
    zstd.ZSTD_isError.restype = ctypes.c_uint
    return zstd


def compressed_bytes(block: bytes) -> int:
    """The size of one block, by itself, at zstd's level 1; its own size if it does not shrink."""
    room = ctypes.create_string_buffer(len(block))
    size = int(library().ZSTD_compress(room, len(block), block, len(block), LEVEL))
    # The only error there can be: that it does not fit.
    return len(block) if library().ZSTD_isError(size) else size


def compressed_changes(old: Path, new: Path) -> int:
    """The sum of the old blocks that are not the same in the new image, or not there any more."""
    total = 0
    with open(old, "rb") as before, open(new, "rb") as after:
        while piece := before.read(MIB):
            other = after.read(MIB)
            if piece == other:
                continue
            for start in range(0, len(piece), BLOCK):
                block = piece[start : start + BLOCK]
                if block != other[start : start + BLOCK]:
                    total += compressed_bytes(block)
    return total
