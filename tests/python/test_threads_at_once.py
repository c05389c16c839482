"""Many threads use one object at the same moment.

Under a free-threaded Python nothing but the module itself keeps them apart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import backy

THREADS = 8
BLOCK = 65536


@pytest.fixture
def archive(tmp_path: Path) -> backy.Archive:
    """An archive with three revisions."""
    source = tmp_path / "source"
    source.touch()
    archive = backy.Archive.init(tmp_path / "archive", source)
    for state in range(1, 4):
        source.write_bytes(bytes([state]) * BLOCK + b"".join(number.to_bytes(2, "big") * 32768 for number in range(16)))
        archive.backup(force=True)
    return archive


def at_once(work: Callable[[int], None]) -> None:
    """Runs `work` in many threads that begin together; what one of them raises is raised."""
    gate, raised = threading.Barrier(THREADS), []

    def begin(number: int) -> None:
        gate.wait(30)
        try:
            work(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    if raised:
        raise raised[0]


def test_one_file_is_read_by_many_threads(archive: backy.Archive) -> None:
    with archive.open("1") as image:
        expected = image.read()

        def read(number: int) -> None:
            for step in range(200):
                offset = (number * 7919 + step * 104729) % (len(expected) - 1000)
                assert image.read_at(offset, 1000) == expected[offset : offset + 1000]

        at_once(read)


def test_one_archive_is_asked_by_many_threads(archive: backy.Archive) -> None:
    revisions, status = archive.revisions, archive.status()

    def ask(number: int) -> None:
        for _ in range(20):
            assert archive.revisions == revisions
            now = archive.status()
            assert (now.revision_count, now.healthy) == (3, status.healthy)
            assert hash(now.revisions[0]) == hash(now.revisions[0])
            assert archive.select("1") == [revisions[1]]

    at_once(ask)


def test_one_archive_is_written_by_one_thread_at_a_time(archive: backy.Archive) -> None:
    """Each backup of a thread that waits for its turn is made, and each thread hears of its own progress only."""
    heard: list[list[int]] = [[] for _ in range(THREADS)]

    def back_up(number: int) -> None:
        def hear(progress: backy.Progress) -> None:
            heard[number].append(progress.bytes_done)

        assert archive.backup(force=True, tags=[f"thread-{number}"], wait=60, progress=hear) is not None

    at_once(back_up)
    tags = {tag for revision in archive.revisions for tag in revision.tags}
    assert {f"thread-{number}" for number in range(THREADS)} <= tags
    assert len(archive.revisions) == 3 + THREADS
    assert all(numbers == sorted(numbers) for numbers in heard)
