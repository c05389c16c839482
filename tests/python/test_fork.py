"""Children that are forked while backy is at work: they take nothing of their parent's, and can do everything."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import backy
from backy import Archive, Progress
from conftest import Made

# These tests fork while threads are at work: that is what they are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def in_child(what: Callable[[], object]) -> int:
    """The exit status of a child that does something: 0 when that was true, 1 when not, 2 when it raised."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            status = 0 if what() else 1
        finally:
            os._exit(status)
    return ended(child)


def ended(child: int) -> int:
    """The exit status of a child, which is killed when it hangs."""
    alarm = threading.Timer(60, os.kill, (child, 9))
    alarm.start()
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        alarm.cancel()


@contextmanager
def alive() -> Iterator[int]:
    """A child that does nothing but live, as a worker of a pool does."""
    end, hold = os.pipe()
    there, ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hold)
        os.write(ready, b"!")
        os.read(end, 1)
        os._exit(0)
    os.close(end)
    os.close(ready)
    # Before, it may not have returned from fork.
    assert os.read(there, 1)
    os.close(there)
    try:
        yield child
    finally:
        os.close(hold)
        assert ended(child) == 0


class Waiting:
    """A source that waits in its second half until it may go on."""

    size = 4 << 20

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.may_go_on = threading.Event()

    def readinto_at(self, offset: int, buffer: memoryview, /) -> int:
        if offset >= self.size // 2:
            self.reached.set()
            assert self.may_go_on.wait(60)
        buffer[:] = bytes(len(buffer))
        return len(buffer)


def open_files(process: int, folder: Path) -> set[str]:
    """The names of the files in a folder that a process has open, and "." for the folder itself."""
    found = set()
    for entry in Path(f"/proc/{process}/fd").iterdir():
        try:
            target = Path(os.readlink(entry))
        except OSError:
            continue
        if target.parent == folder:
            found.add(target.name)
    return found


def locks(process: int) -> list[str]:
    """The locks that are on the open files of a process."""
    texts = [info.read_text() for info in Path(f"/proc/{process}/fdinfo").iterdir() if info.exists()]
    return [line for text in texts for line in text.splitlines() if line.startswith("lock:")]


def test_a_child_that_is_forked_during_a_backup_does_not_keep_the_archive_locked(copy: Made) -> None:
    """It has no lock, neither of the archive nor of the image, and the archive is free when the backup ends."""
    archive, source = Archive(copy.path), Waiting()
    backup = threading.Thread(target=archive.backup, kwargs={"source": source, "force": True})
    backup.start()
    try:
        assert source.reached.wait(60)
        assert "lock" in open_files(os.getpid(), copy.path)
        with alive() as child:
            assert not {"lock", "last.raw.new"} & open_files(child, copy.path)
            assert locks(os.getpid())
            assert not locks(child)
            source.may_go_on.set()
            backup.join(60)
            archive.maintenance()
            source.may_go_on.set()
            archive.backup(source=source, force=True)
    finally:
        source.may_go_on.set()
        backup.join(60)
    assert archive.status().in_progress is None


def test_an_archive_object_works_in_a_child(copy: Made) -> None:
    """It is opened anew there: the child can read it and change it, also while another thread of the parent does."""
    archive, source = Archive(copy.path), Waiting()

    def reads() -> bool:
        with archive.open() as file:
            return file.read() == copy.sources[0]

    assert in_child(reads) == 0
    assert in_child(lambda: archive.tag(0, add=["by-a-child"])) == 0
    assert "by-a-child" in archive.revisions[0].tags
    backup = threading.Thread(target=archive.backup, kwargs={"source": source, "force": True})
    backup.start()
    try:
        assert source.reached.wait(60)

        def is_refused() -> bool:
            with pytest.raises(backy.LockedError, match="'backup' of Python"):
                archive.tag(0, add=["too-early"])
            return archive.status().in_progress is not None

        assert in_child(is_refused) == 0
    finally:
        source.may_go_on.set()
        backup.join(60)


def test_an_open_file_works_in_children_while_threads_read_it(copy: Made) -> None:
    """Whatever a thread of the parent was doing at that moment: a child does not wait for it."""
    archive = Archive(copy.path)
    expected = copy.sources[2]
    ending = threading.Event()
    with archive.open("2") as file:

        def read_on() -> None:
            while not ending.is_set():
                file.seek(0)
                file.read()

        threads = [threading.Thread(target=read_on) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:

            def is_right() -> bool:
                file.seek(0)
                again = archive.open("2").read_at(0, len(expected)) == expected
                return file.read() == expected and again

            for _ in range(20):
                assert in_child(is_right) == 0
        finally:
            ending.set()
            for thread in threads:
                thread.join(60)
        assert file.read_at(0, 16) == expected[:16]


def test_an_open_file_of_a_deleted_revision_is_a_clear_error_in_a_child(copy: Made) -> None:
    """The parent, which has it open, can still read it."""
    archive = Archive(copy.path)
    with archive.open("2") as file:
        archive.rm("2", force=True)

        def is_refused() -> bool:
            with pytest.raises(backy.NoSuchRevisionError, match="was deleted"):
                file.read_at(0, 1)
            return True

        assert in_child(is_refused) == 0


def test_a_child_leaves_the_mount_of_its_parent(made: Made, place: Path) -> None:
    """However it ends: by dropping it, at the end of a with block, or asked to unmount, which is an error."""
    mount = Archive(made.path).mount(place)
    try:

        def drop() -> bool:
            nonlocal mount
            del mount
            return True

        def leave_the_block() -> bool:
            with mount as folder:
                return (folder / "latest").read_bytes() == made.sources[0]

        def unmount() -> bool:
            for lazy in (False, True):
                with pytest.raises(backy.MountError, match=f"belongs to process {os.getppid()}"):
                    mount.unmount(lazy=lazy)
            return mount.is_mounted

        for end in (drop, leave_the_block, unmount):
            assert in_child(end) == 0
            assert mount.is_mounted, end
            assert (place / "latest").read_bytes() == made.sources[0]
    finally:
        mount.unmount()
    assert not mount.is_mounted


def test_a_child_that_ends_as_a_program_does_leaves_the_mount(made: Made, place: Path) -> None:
    """With all that the interpreter does at its end."""
    program = f"""
import backy, os, sys
mount = backy.Archive({str(made.path)!r}).mount({str(place)!r})
child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert mount.is_mounted and os.path.ismount({str(place)!r})
mount.unmount()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_mount_ends_with_its_process_though_a_child_lives(made: Made, place: Path) -> None:
    """Whoever looks there gets an error. With a child that kept the connection, he would wait for ever."""
    program = f"""
import backy, os, signal, time
mount = backy.Archive({str(made.path)!r}).mount({str(place)!r})
child = os.fork()
if child == 0:
    os.closerange(0, 3)
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    child = int(done.stdout)
    try:
        look = subprocess.run(["ls", place], capture_output=True, text=True, timeout=30, check=False)
        assert "not connected" in look.stderr
    finally:
        os.kill(child, 9)
    with Archive(made.path).mount(place) as folder:
        assert (folder / "latest").read_bytes() == made.sources[0]


def test_a_started_program_inherits_no_file(copy: Made) -> None:
    """Every file is opened with O_CLOEXEC: close_fds=False hands on none."""
    archive, source = Archive(copy.path), Waiting()
    reader = archive.open("1")
    backup = threading.Thread(target=archive.backup, kwargs={"source": source, "force": True})
    backup.start()
    try:
        assert source.reached.wait(60)
        listed = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, stdout=subprocess.PIPE, check=True)
        assert str(copy.path).encode() not in listed.stdout
    finally:
        source.may_go_on.set()
        backup.join(60)
        reader.close()


@pytest.mark.parametrize(
    ("ending", "status", "told"),
    [
        ("sys.exit(7)", 7, ""),
        ("os._exit(8)", 8, ""),
        ("raise ValueError('in the child')", 1, "ValueError: in the child"),
        ("return", 1, "has returned"),
    ],
)
def test_a_child_that_returns_into_a_call_is_ended(
    large: Made, tmp_path: Path, ending: str, status: int, told: str
) -> None:
    """Forked by a callback: the call is its parent's, and goes on there."""
    program = f"""
import backy, os, sys
forked = []
def progress(state):
    if forked:
        return
    child = os.fork()
    forked.append(child)
    if child == 0:
        {ending}
report = backy.Archive({str(large.path)!r}).restore({str(tmp_path / "target")!r}, progress=progress)
print(os.waitstatus_to_exitcode(os.waitpid(forked[0], 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{status}\n"), done.stderr
    assert told in done.stderr if told else done.stderr == ""
    assert (tmp_path / "target").read_bytes() == large.sources[0]


def test_a_source_that_forks_continues_only_in_the_parent(copy: Made) -> None:
    """A child that returns from readinto_at() writes nothing to the archive."""

    class Forks:
        size = 1 << 20
        children: list[int] = []

        def readinto_at(self, _offset: int, buffer: memoryview, /) -> int:
            buffer[:] = b"a" * len(buffer)
            if not self.children:
                child = os.fork()
                self.children.append(child)
            return len(buffer)

    Archive(copy.path).backup(source=Forks(), force=True)
    assert ended(Forks.children[0]) == 1
    archive = Archive(copy.path)
    assert archive.scrub().findings == ()
    with archive.open() as file:
        assert file.read() == b"a" * (1 << 20)


def test_a_callable_of_a_drill_may_fork(made: Made, tmp_path: Path) -> None:
    """The temporary file stays until its parent has judged it."""

    def judge(path: Path) -> bool:
        child = os.fork()
        if child == 0:
            raise SystemExit(0)
        return ended(child) == 3 and path.exists()

    archive = Archive(made.path)
    maker = os.getpid()
    try:
        report = archive.drill("latest", command=judge, dir=tmp_path)
    except SystemExit:
        assert os.getpid() != maker
        os._exit(3)
    assert report.passed, report.message
    assert list(tmp_path.iterdir()) == []


def test_progress_is_an_argument_that_may_fork_workers(copy: Made) -> None:
    """As a callback does that starts a multiprocessing.Process."""
    seen: list[Progress] = []

    def progress(state: Progress) -> None:
        seen.append(state)
        if len(seen) == 1:
            assert in_child(lambda: True) == 0

    Archive(copy.path).scrub(check_only=True, progress=progress)
    assert seen
