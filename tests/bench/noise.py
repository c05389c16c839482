"""Text-like noise, which compresses about two to one, as the content of images that need not be a file system.

Everything is written in pieces of at most 1 MiB: a child counts the memory of the process that started it as its own.
"""

from __future__ import annotations

import random
from pathlib import Path

from measure import MIB

BLOCK = 65536


def noise(generator: random.Random, size_bytes: int) -> bytes:
    return generator.randbytes(size_bytes // 2).hex().encode()


def write_noise(path: Path, size_bytes: int, generator: random.Random) -> None:
    with open(path, "wb") as image:
        for _ in range(size_bytes // MIB):
            image.write(noise(generator, MIB))


def change_blocks(path: Path, count: int, generator: random.Random) -> None:
    """Writes so many blocks anew, no block twice."""
    blocks = path.stat().st_size // BLOCK
    with open(path, "r+b") as image:
        for block in sorted(generator.sample(range(blocks), count)):
            image.seek(block * BLOCK)
            image.write(noise(generator, BLOCK))
