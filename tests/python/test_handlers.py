"""Files of revisions behave as those of io: for signal handlers, with odd arguments, and when they are dropped."""

from __future__ import annotations

import gc
import io
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

import backy
from backy import Archive
from conftest import Made

INTERRUPTED = """
import signal, sys, time
import backy
archive, buffered, handler = backy.Archive(sys.argv[1]), sys.argv[2] == "buffered", sys.argv[3]
image = archive.open(buffered=buffered)
with archive.open() as other:
    expected = other.read()
size, hits, seen = len(expected), 0, []
def call(*_):
    global hits
    hits += 1
    try:
        touch()
    except RuntimeError as error:
        assert buffered and "reentrant" in str(error), error
def touch():
    if handler == "seek":
        image.seek(size // 2)
    elif handler == "read":
        seen.append((image.tell(), image.read(10)))
    elif handler == "readinto":
        part = bytearray(10)
        assert (image.raw if buffered else image).readinto_at(5, part) == 10
        assert part == expected[5:15]
    elif handler == "close":
        image.close()
    else:
        image.tell()
signal.signal(signal.SIGALRM, call)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
stop = time.monotonic() + 1.5
buffer = bytearray(size)
try:
    while time.monotonic() < stop and not image.closed:
        image.seek(0)
        at = hits
        content = image.read() if handler != "readinto" else memoryview(buffer)[: image.readinto(buffer)]
        place = image.tell() if not image.closed else None
        # Nothing came between the two, or it came and did not harm.
        assert content == expected or handler in ("seek", "read"), len(content)
        assert content in (expected, expected[size // 2 :], expected[10:]), (len(content), handler)
        if handler == "seek" and at != hits:
            assert place in (size // 2, size), place
except ValueError as error:
    assert handler == "close", error
signal.setitimer(signal.ITIMER_REAL, 0)
assert hits
for place, part in seen:
    assert part == expected[place : place + 10], place
image.close()
print("done")
"""


@pytest.mark.parametrize("kind", ["raw", "buffered"])
@pytest.mark.parametrize("handler", ["tell", "seek", "read", "readinto", "close"])
def test_a_signal_handler_uses_the_file_that_is_being_read(kind: str, handler: str, large: Made) -> None:
    """It does not hang: the handler works, or gets the RuntimeError that io.BufferedReader raises."""
    command = [sys.executable, "-c", INTERRUPTED, str(large.path), kind, handler]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")


def test_threads_that_read_one_file_get_each_byte_once(made: Made) -> None:
    """A read takes its bytes before it begins, so that no two get the same."""
    expected = made.sources[1]
    parts: list[bytes] = []
    with Archive(made.path).open(1) as image:

        def work() -> None:
            while part := image.read(1000):
                parts.append(part)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert image.tell() == len(expected)
    assert sorted(parts) == sorted(expected[at : at + 1000] for at in range(0, len(expected), 1000))


@pytest.mark.damages
def test_a_read_that_fails_leaves_the_position(copy: Made) -> None:
    with (copy.path / "last.raw").open("r+b") as file:
        file.seek(200_000)
        file.write(b"rotten")
    with Archive(copy.path).open() as image:
        image.seek(195_000)
        for read in (lambda: image.read(10_000), lambda: image.readinto(bytearray(10_000))):
            with pytest.raises(backy.ArchiveDamagedError):
                read()
            assert image.tell() == 195_000


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What it gives, or the class of what it raises."""
    try:
        return call(*arguments)
    except Exception as error:
        return type(error)


def test_odd_arguments_have_the_outcome_that_file_io_has(made: Made, tmp_path: Path) -> None:
    """seek and read with floats, numbers that are too large, text and None."""
    (tmp_path / "file").write_bytes(made.sources[0])
    odd: list[Any] = [1.5, None, "1", b"1", True, 2**31, 2**40, 2**63, 2**64, 2**70, -(2**70), 0]
    with Archive(made.path).open() as image, open(tmp_path / "file", "rb", buffering=0) as file:
        for value in odd:
            assert outcome(image.seek, value) == outcome(file.seek, value), value
            assert image.tell() == file.tell()
            assert outcome(image.read, 7) == outcome(file.read, 7), value
        # The file system of the other refuses less than 2**63.
        assert image.seek(2**63 - 1) == 2**63 - 1
        assert image.read(7) == b""
        for whence in (0, 1, 2, None, "0", 1.0, True):
            image.seek(100)
            file.seek(100)
            assert outcome(image.seek, 5, whence) == outcome(file.seek, 5, whence), whence
        for value in [0, 1, -1, -5, None, True, 1.5, "1", b"1", 2**63, 2**70]:
            image.seek(10)
            file.seek(10)
            assert outcome(image.read, value) == outcome(file.read, value), value
        image.seek(100)
        for offset, whence in ((2**63 - 1, 1), (2**63 - 1, 2)):
            with pytest.raises(OSError, match="too large"):
                image.seek(offset, whence)
        for whence in (3, -1):
            with pytest.raises(ValueError, match="whence"):
                image.seek(0, whence)
        assert image.tell() == 100


def test_a_random_walk_is_that_of_bytes_io(made: Made) -> None:
    content = made.sources[1]
    reference, generator = io.BytesIO(content), random.Random(3)
    with Archive(made.path).open(1) as image:
        for _ in range(1000):
            step, size = generator.randrange(4), generator.randrange(70_000)
            if step == 0:
                assert image.seek(size) == reference.seek(size)
            elif step == 1:
                assert image.read(size) == reference.read(size)
            elif step == 2:
                ours, theirs = bytearray(size), bytearray(size)
                assert image.readinto(ours) == reference.readinto(theirs)
                assert ours == theirs
            else:
                assert image.tell() == reference.tell()
            if image.tell() > len(content):
                assert image.seek(0) == reference.seek(0)


@pytest.mark.parametrize("buffered", [False, True])
def test_a_file_that_is_dropped_warns(buffered: Literal[True, False], made: Made) -> None:
    """Once, with a ResourceWarning that names it; one that was closed does not."""
    archive = Archive(made.path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with archive.open(buffered=buffered) as image:
            image.read(1)
        image = archive.open(buffered=buffered)
        image.close()
        del image
        gc.collect()
        assert caught == []
        image = archive.open(buffered=buffered)
        uuid = archive.revisions[0].uuid
        del image
        gc.collect()
    assert [each.category for each in caught] == [ResourceWarning]
    assert uuid in str(caught[0].message)
    assert caught[0].source is not None


def read_for_ever(image: io.RawIOBase) -> None:
    while True:
        image.seek(1000)
        image.read()


def test_a_handler_can_raise_out_of_a_read(large: Made) -> None:
    """The position is where the read began."""

    class LateError(Exception):
        pass

    def late(*_arguments: object) -> None:
        raise LateError

    old = signal.signal(signal.SIGALRM, late)
    try:
        with Archive(large.path).open() as image:
            image.seek(1000)
            signal.setitimer(signal.ITIMER_REAL, 0.005)
            with pytest.raises(LateError):
                read_for_ever(image)
            assert image.tell() in (1000, image.size)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
