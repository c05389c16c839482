"""Images longer than 4 GiB, and more at once than is read at a time: a cut offset or length is wrong only there."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import pytest

from backy import Archive

GIB = 1 << 30
BORDER = 4 * GIB
SIZE = BORDER + (40 << 20) + 77

Pieces = dict[int, bytes]


def pieces(seed: int) -> Pieces:
    """What is where in an image that is otherwise zero: low, across the border, behind it and at the end."""
    generator = random.Random(seed)
    places = (3 << 20, BORDER - 5000, BORDER + (3 << 20), BORDER + (30 << 20), SIZE - 999)
    return {place: generator.randbytes(min(100_000, SIZE - place)) for place in places}


def expected(there: Pieces, offset: int, size: int) -> bytes:
    content = bytearray(max(0, min(size, SIZE - offset)))
    for place, piece in there.items():
        start, end = max(place, offset), min(place + len(piece), offset + len(content))
        if start < end:
            content[start - offset : end - offset] = piece[start - place : end - place]
    return bytes(content)


class Sparse:
    """A source that is an object, next to all of it zero; it knows where it is not."""

    size = SIZE

    def __init__(self, there: Pieces) -> None:
        self.there = there

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        content = expected(self.there, offset, len(buffer))
        buffer[: len(content)] = content
        return len(content)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Archive, list[Pieces]]:
    """Two backups of a file with holes; newest first."""
    folder = tmp_path_factory.mktemp("behind-4-gib")
    (folder / "source").touch()
    archive = Archive.init(folder / "archive", folder / "source")
    states = [pieces(1), pieces(2)]
    for there in states:
        with (folder / "source").open("wb") as source:
            source.truncate(SIZE)
            for place, piece in there.items():
                source.seek(place)
                source.write(piece)
        archive.backup(force=True)
    return archive, states[::-1]


def test_reads_behind_4_gib(large: tuple[Archive, list[Pieces]]) -> None:
    """read_at, readinto_at, seek and read give what is there, and not what is 4 GiB before it."""
    archive, states = large
    for number, there in enumerate(states):
        with archive.open(number) as image:
            assert image.size == SIZE
            for place in (*there, *(place - BORDER for place in there if place >= BORDER)):
                for offset in (max(place - 700, 0), place, place + 31):
                    wanted = expected(there, offset, 70_000)
                    assert image.read_at(offset, 70_000) == wanted, (number, offset)
                    buffer = bytearray(70_000)
                    assert image.readinto_at(offset, buffer) == len(wanted)
                    assert buffer[: len(wanted)] == wanted, (number, offset)
                    assert image.seek(offset) == image.tell() == offset
                    assert image.read(70_000) == wanted
            assert image.seek(-999, io.SEEK_END) == SIZE - 999
            assert image.read() == there[SIZE - 999]


def test_more_at_once_than_is_read_at_a_time(large: tuple[Archive, list[Pieces]]) -> None:
    """More than 8 MiB through readinto, readinto_at, read_at and read, across 4 GiB: every byte is in its place."""
    archive, states = large
    size = 36 << 20
    for number, there in enumerate(states):
        with archive.open(number) as image:
            for offset in (0, BORDER - (11 << 20) - 3, SIZE - (20 << 20)):
                wanted = expected(there, offset, size)
                buffer = bytearray(b"\xee") * (size + 2)
                assert image.readinto_at(offset, memoryview(buffer)[1:-1]) == len(wanted)
                assert buffer[1 : 1 + len(wanted)] == wanted, (number, offset)
                assert set(buffer[:1] + buffer[1 + len(wanted) :]) == {0xEE}, "past what was read"
                image.seek(offset)
                buffer = bytearray(size)
                assert image.readinto(buffer) == len(wanted)
                assert buffer[: len(wanted)] == wanted, (number, offset)
                assert image.tell() == offset + len(wanted)
                assert image.read_at(offset, size) == wanted
                image.seek(offset)
                assert image.read(size) == wanted


def test_an_object_behind_4_gib(tmp_path: Path) -> None:
    """A source that says where it has changed, behind the border and before it, is read there and nowhere else."""

    class Knowing(Sparse):
        read: list[tuple[int, int]] = []

        def readinto_at(self, offset: int, buffer: memoryview) -> int:
            self.read.append((offset, len(buffer)))
            return super().readinto_at(offset, buffer)

        def changed_extents(self, since: object) -> list[tuple[int, int]]:
            return [(place, len(piece)) for place, piece in self.there.items()]

    there = pieces(3)
    archive = Archive.init(tmp_path / "archive")
    # A first backup of zeros, for which a file with holes does.
    with (tmp_path / "zeros").open("wb") as zeros:
        zeros.truncate(SIZE)
    archive.backup(source=tmp_path / "zeros", force=True)
    source = Knowing(there)
    archive.backup(source=source, force=True)
    assert sum(length for _, length in source.read) < 16 << 20, source.read
    with archive.open(0) as image:
        for place, piece in there.items():
            assert image.read_at(place, len(piece)) == piece, place
        for place in there:
            low = place % BORDER
            assert image.read_at(low, 1000) == expected(there, low, 1000), low
    stored = os.stat(archive.path / "last.raw").st_blocks * 512
    assert stored < 4 << 20, "what is zero takes room"
