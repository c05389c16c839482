"""File objects as targets of a restore: checked before anything begins, and their errors are theirs."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import backy
from backy import Archive
from conftest import Made


class Odd:
    """A target whose write() gives back what it is told to."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.calls = 0

    def write(self, content: bytes) -> Any:
        self.calls += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer(content) if callable(self.answer) else self.answer


def test_files_of_many_kinds_are_written(made: Made, tmp_path: Path) -> None:
    archive, expected = Archive(made.path), made.sources[0]
    memory = io.BytesIO(b"head")
    memory.seek(4)
    archive.restore(memory)
    assert memory.getvalue() == b"head" + expected
    with gzip.open(tmp_path / "packed", "wb", compresslevel=1) as packed:
        archive.restore(packed)
    assert gzip.decompress((tmp_path / "packed").read_bytes()) == expected
    with open(tmp_path / "raw", "wb", buffering=0) as raw:
        archive.restore(raw)
    assert (tmp_path / "raw").read_bytes() == expected
    with tempfile.NamedTemporaryFile() as named, tempfile.SpooledTemporaryFile(max_size=1000) as spooled:
        for file in (named, spooled):
            archive.restore(file)
            file.seek(0)
            assert file.read() == expected
    with subprocess.Popen(["sha256sum"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        archive.restore(process.stdin)
        digest, _ = process.communicate()
        assert digest.split()[0].decode() == hashlib.sha256(expected).hexdigest()
    pieces: list[bytes] = []

    def write(content: bytes) -> int:
        pieces.append(content[:1000])
        return len(pieces[-1])

    archive.restore(Odd(write))
    assert b"".join(pieces) == expected


def test_a_file_object_gets_the_stream_for_ceph(made: Made, tmp_path: Path) -> None:
    """The same bytes as a file, whose SHA-256 is in the report; its errors are its own."""
    archive, memory = Archive(made.path), io.BytesIO()
    newest, other, *_ = archive.revisions
    report = archive.export_rbd_diff(memory, since=other)
    written = archive.export_rbd_diff(tmp_path / "diff", since=other.uuid)
    stream = (tmp_path / "diff").read_bytes()
    assert memory.getvalue() == stream
    assert stream.startswith(b"rbd diff v1\nf")
    assert stream.endswith(b"e")
    assert (report.revision, report.since) == (newest.uuid, other.uuid)
    assert report.sha256 == written.sha256 == hashlib.sha256(stream).hexdigest()
    assert (report.file, written.file) == (Path("-"), tmp_path / "diff")
    assert report.stream_bytes == len(stream)
    with pytest.raises(backy.SpecificationError, match="both revisions"):
        archive.export_rbd_diff(memory, 0, since=0)
    with pytest.raises(backy.TargetError, match="exists already"):
        archive.export_rbd_diff(tmp_path / "diff")
    with pytest.raises(ZeroDivisionError):
        archive.export_rbd_diff(Odd(ZeroDivisionError()))


def refused(made: Made, tmp_path: Path) -> dict[str, tuple[Any, type[Exception], str]]:
    (tmp_path / "there").write_bytes(b"as it was")
    closed = (tmp_path / "closed").open("wb")
    closed.close()

    class NoCall:
        write = "no function"

    class Gone(Odd):
        closed = True

    return {
        "text": ((tmp_path / "text").open("w"), TypeError, "binary mode"),
        "text in memory": (io.StringIO(), TypeError, "text"),
        "standard output": (io.TextIOWrapper(io.BytesIO()), TypeError, ".buffer"),
        "temporary text": (tempfile.NamedTemporaryFile("w"), TypeError, "text"),
        "for reading": ((tmp_path / "there").open("rb"), io.UnsupportedOperation, "not open for writing"),
        "a revision": (Archive(made.path).open(), io.UnsupportedOperation, "not open for writing"),
        "closed": (closed, ValueError, "closed file"),
        "closed, and no file of Python's": (Gone(1), ValueError, "closed file"),
        "no call": (NoCall(), TypeError, "write"),
        "a number": (5, TypeError, "no target"),
        "nothing": (None, TypeError, "no target"),
    }


def test_an_unwritable_target_is_refused_at_once(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of an archive that is not read at all."""
    archive = Archive(made.path)
    for name, (target, error, text) in refused(made, tmp_path).items():
        with pytest.raises(error, match=text):
            archive.restore(target, progress=lambda _state: pytest.fail("it has begun"))
        if hasattr(target, "close"):
            target.close()
        assert (tmp_path / "there").read_bytes() == b"as it was", name
    untouched = io.BytesIO()
    for option in ({"force": True}, {"dry_run": True}, {"undo": tmp_path / "undo"}):
        with pytest.raises(backy.SpecificationError, match="file object"):
            archive.restore(untouched, **option)
    assert untouched.getvalue() == b""


def test_a_path_that_can_write_is_a_path(made: Made, tmp_path: Path) -> None:
    class Odd(type(Path())):  # type: ignore[misc]
        def write(self, content: bytes) -> None:
            pytest.fail("it is a path")

    Archive(made.path).restore(Odd(tmp_path / "target"))
    assert (tmp_path / "target").read_bytes() == made.sources[0]


@pytest.mark.parametrize(
    "raised",
    [
        ValueError("v"),
        KeyboardInterrupt(),
        SystemExit(2),
        InterruptedError(errno.EINTR, "interrupted"),
        BrokenPipeError(errno.EPIPE, "pipe"),
        OSError(errno.ENOSPC, "full"),
    ],
    ids=repr,
)
def test_an_exception_of_write_is_raised_unchanged(raised: BaseException, made: Made) -> None:
    target = Odd(raised)
    with pytest.raises(type(raised)) as caught:
        Archive(made.path).restore(target)
    assert caught.value is raised
    assert target.calls == 1


SECRET = "pass" + "word"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (0, "returned 0;"),
        (-1, "returned -1;"),
        (2**70, "returned 1180591620717411303424;"),
        (10**5000, "a number of"),
        (1.0, "returned 1.0;"),
        (SECRET, "an object of builtins.str"),
        (b"", "an object of builtins.bytes"),
        (lambda content: len(content) + 1, "expected how many of the"),
    ],
    ids=["0", "-1", "2**70", "long", "float", "str", "bytes", "too many"],
)
def test_a_count_that_makes_no_sense_is_an_error_of_the_target(answer: Any, text: str, made: Made) -> None:
    """Not of the archive; it names the target and what came back, unless that may be content."""
    target = Odd(answer)
    with pytest.raises(backy.TargetError, match=text) as raised:
        Archive(made.path).restore(target)
    assert not isinstance(raised.value, backy.ArchiveAccessError)
    assert "Odd object" in str(raised.value)
    assert SECRET not in str(raised.value)
    assert target.calls == 1


def test_a_file_that_would_block_is_a_blocking_io_error(made: Made) -> None:
    """As io.BufferedWriter says it: write() of a raw file gives None."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(reading, "rb"), open(writing, "wb", buffering=0) as pipe, pytest.raises(BlockingIOError) as raised:
        Archive(made.path).restore(pipe)
    assert raised.value.errno == errno.EAGAIN
    assert not isinstance(raised.value, backy.BackyError)


def test_a_full_device_is_no_error_of_the_archive(made: Made) -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space") as raised:
        Archive(made.path).restore(full)
    assert type(raised.value) is OSError


def test_an_exception_of_flush_is_raised(made: Made) -> None:
    class Unflushed(io.BytesIO):
        def flush(self) -> None:
            raise ValueError("not flushed")

    with pytest.raises(ValueError, match="not flushed"):
        Archive(made.path).restore(Unflushed())


def test_an_error_of_a_target_keeps_the_context(made: Made) -> None:
    """Though it is made in another thread."""
    calls: list[Callable[[], Any]] = [
        lambda: Archive(made.path).restore(Odd(0)),
        lambda: Archive(made.path).restore(Odd(ValueError("its own"))),
        lambda: Archive(made.path).restore(Odd(None)),
    ]
    contexts: list[BaseException | None] = []
    for call in calls:
        first = RuntimeError("the first")
        try:
            try:
                raise first
            except RuntimeError:
                call()
        except (OSError, ValueError) as error:
            contexts.append(error.__context__)
        assert contexts[-1] is first


def test_sys_stdout_is_text(made: Made) -> None:
    if isinstance(sys.__stdout__, io.TextIOBase):
        with pytest.raises(TypeError, match="text"):
            Archive(made.path).restore(sys.__stdout__)  # type: ignore[arg-type]
