"""Revisions as files: what `Archive.open` gives."""

from __future__ import annotations

import io
import random
import shutil
import threading
import zipfile
from pathlib import Path

import numpy
import pytest

import backy
from backy import Archive
from conftest import Made, flip


def test_the_whole_of_every_revision(made: Made) -> None:
    """read, readall, readinto and copies give what was backed up."""
    archive = Archive(made.path)
    for number, expected in enumerate(made.sources):
        with archive.open(number) as image:
            assert image.size == len(expected)
            assert image.read() == expected
            assert image.read() == b""
        with archive.open(number) as image:
            copied = io.BytesIO()
            shutil.copyfileobj(image, copied, 1000)
            assert copied.getvalue() == expected
        with archive.open(number, buffered=True) as image:
            assert isinstance(image, io.BufferedReader)
            assert image.read(7) + image.read1(9) + image.read() == expected


def test_a_position_like_that_of_any_file(made: Made) -> None:
    """seek, tell and read as with a file of the same bytes, at random."""
    expected = io.BytesIO(made.sources[1])
    generator = random.Random(1)
    with Archive(made.path).open("1") as image:
        for _ in range(500):
            offset, size = generator.randrange(-9, len(made.sources[1]) + 9), generator.randrange(70000)
            whence = generator.choice((io.SEEK_SET, io.SEEK_CUR, io.SEEK_END))
            try:
                there = expected.seek(offset, whence) if whence == io.SEEK_SET else expected.tell() + offset
                if whence == io.SEEK_END:
                    there = len(made.sources[1]) + offset
                expected.seek(max(there, 0))
            except ValueError:
                there = -1
            if there < 0:
                with pytest.raises(ValueError, match="before the beginning"):
                    image.seek(offset, whence)
                image.seek(expected.tell())
                continue
            assert image.seek(offset, whence) == expected.tell() == image.tell()
            assert image.read(size) == expected.read(size)


def test_buffers_of_any_kind_are_filled(made: Made) -> None:
    """bytearray, memoryview, numpy; and what cannot be filled is refused before anything is read."""
    expected = made.sources[0]
    with Archive(made.path).open() as image:
        assert image.readinto(bytearray()) == 0
        array = numpy.zeros(100, dtype=">u4")
        assert image.readinto_at(65536, array.data) == 400
        assert (array == numpy.frombuffer(expected[65536:65936], dtype=">u4")).all()
        buffer = bytearray(len(expected) + 10)
        assert image.readinto(memoryview(buffer)[5:]) == len(expected)
        assert buffer == bytes(5) + expected + bytes(5)
        with pytest.raises(TypeError, match="cannot be written"):
            image.readinto_at(0, bytes(4))
        with pytest.raises(BufferError, match="in one piece"):
            image.readinto_at(0, memoryview(bytearray(8))[::2])
        with pytest.raises(OverflowError):
            image.readinto_at(-1, bytearray(4))
        image.seek(0)
        assert (numpy.frombuffer(image.readall(), dtype="u1") == numpy.frombuffer(expected, "u1")).all()


def test_a_zip_file_in_it_can_be_read(tmp_path: Path) -> None:
    """zipfile takes an open revision, with what is behind the archive in the image."""
    source = tmp_path / "source"
    with zipfile.ZipFile(source, "w") as packed:
        packed.writestr("name", b"content" * 1000)
    archive = Archive.init(tmp_path / "archive", source)
    archive.backup()
    with archive.open() as image, zipfile.ZipFile(image) as packed:
        assert packed.read("name") == b"content" * 1000


def test_several_threads_read_one_file(made: Made) -> None:
    """Each gets its own bytes, with and without a position."""
    expected = made.sources[1]
    wrong: list[int] = []
    with Archive(made.path).open(1) as image:

        def work(seed: int) -> None:
            generator = random.Random(seed)
            for _ in range(200):
                offset, size = generator.randrange(len(expected)), generator.randrange(9000)
                if image.read_at(offset, size) != expected[offset : offset + size]:
                    wrong.append(offset)
                if image.read(10) not in expected:
                    wrong.append(-1)
                image.seek(0)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_closed_and_read_only_files_are_refused(made: Made) -> None:
    """Says so, as every file does."""
    image = Archive(made.path).open()
    assert image.readable()
    assert image.seekable()
    assert not image.writable()
    assert image.mode == "rb"
    assert image.revision in image.name
    with pytest.raises(io.UnsupportedOperation):
        image.write(b"x")
    image.close()
    image.close()
    assert image.closed
    assert "closed" in repr(image)
    for use in (image.read, image.tell, image.readable, lambda: image.seek(0), lambda: image.readinto(bytearray(1))):
        with pytest.raises(ValueError, match="closed"):
            use()


@pytest.mark.damages
def test_a_wrong_block_is_an_error_that_says_where(copy: Made) -> None:
    """And the bytes around it can be read."""
    flip(copy.path / "last.raw", 2 * 65536 + 9)
    with Archive(copy.path).open() as image:
        with pytest.raises(backy.ArchiveDamagedError) as raised:
            image.read_at(2 * 65536 + 100, 10)
        assert raised.value.offset == 2 * 65536
        assert raised.value.revision == image.revision
        assert raised.value.path == copy.path / "last.raw"
        assert image.read_at(65536, 65536) == copy.sources[0][65536:131072]
        assert image.read_at(3 * 65536, 10) == copy.sources[0][3 * 65536 : 3 * 65536 + 10]


def test_it_stays_readable_while_revisions_come_and_go(copy: Made) -> None:
    """An open revision keeps its bytes through backups and its own removal."""
    archive = Archive(copy.path)
    source = archive.source
    assert source is not None
    with archive.open(0) as newest, archive.open(1) as older:
        for number in range(4):
            archive.backup(source=Source(bytes([number]) * 300000), force=True)
            newest.read(1)
            older.read(1)
        archive.rm("2,4..5", force=True)
        assert older.read_at(0, older.size) == copy.sources[1]
        assert newest.read_at(0, newest.size) == copy.sources[0]


class Source:
    """Bytes as a source."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        part = self.content[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)
