"""The end of the interpreter while a daemon thread is in a call: status 0, not a word, and the archive is whole."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from backy import Archive
from conftest import Made, content

# Each program ends while its thread is in the call, and says so with "end" before.
BEGIN = """
import backy, os, sys, threading, time
archive = backy.Archive(sys.argv[1])

class Slow:
    size = 1 << 30
    def readinto_at(self, offset, buffer, /):
        time.sleep(0.01)
        buffer[:] = bytes(len(buffer))
        return len(buffer)

class Sink:
    def write(self, data):
        time.sleep(0.01)
        return min(len(data), 512)

def forever(call):
    while True:
        call()

def seek_and_read(file):
    file.seek(0)
    file.read()

def daemon(call):
    threading.Thread(target=call, daemon=True).start()
"""
END = "\ntime.sleep(0.4)\nprint('end', flush=True)\n"

CALLS = {
    "backup of an object": "daemon(lambda: archive.backup(source=Slow(), force=True, check_space=False))",
    "backup with progress": """
daemon(lambda: archive.backup(force=True, limit_rate='64K', progress=lambda p: time.sleep(0.01)))
""",
    "backup of a file": "daemon(lambda: archive.backup(force=True, limit_rate='64K'))",
    "restore to an object": "daemon(lambda: archive.restore(Sink()))",
    "reads": "file = archive.open('2')\nfor _ in range(3): daemon(lambda: forever(lambda: seek_and_read(file)))",
    "scrubs": "for _ in range(3): daemon(lambda: forever(lambda: archive.scrub(check_only=True)))",
    "looks": "for _ in range(3): daemon(lambda: forever(lambda: archive.status().to_dict()))",
    "errors": """
def fails():
    try:
        archive.find(99)
    except backy.NoSuchRevisionError:
        pass
for _ in range(3): daemon(lambda: forever(fails))
""",
    "drill with a callable": """
daemon(lambda: archive.drill(command=lambda path: forever(lambda: time.sleep(0.01)), dir=sys.argv[2]))
""",
    "wait for the lock": """
daemon(lambda: archive.backup(source=Slow(), force=True, check_space=False))
time.sleep(0.2)
daemon(lambda: archive.maintenance(wait="1h"))
""",
    "a callback that never comes back": """
daemon(lambda: archive.backup(source=Slow(), force=True, check_space=False, progress=lambda p: forever(lambda: None)))
""",
}


def run(program: str, *arguments: Path) -> tuple[int, str, str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("call", CALLS)
def test_a_daemon_thread_in_a_call_does_not_disturb_the_end(call: str, copy: Made, tmp_path: Path) -> None:
    """Nor does it wait for longer than some seconds; the next backup works."""
    for _ in range(3):
        began = time.monotonic()
        assert run(BEGIN + CALLS[call] + END, copy.path, tmp_path) == (0, "end\n", "")
        assert time.monotonic() - began < 20
    archive = Archive(copy.path)
    archive.backup(force=True)
    assert archive.scrub().findings == ()


def test_a_backup_that_the_end_stops_is_undone(copy: Made) -> None:
    """It is asked to stop, and waited for: nothing is left that the next one would have to undo."""
    before = content(copy.path)
    assert run(BEGIN + CALLS["backup of an object"] + END, copy.path)[0] == 0
    assert Archive(copy.path).status().in_progress is None
    assert content(copy.path).keys() == before.keys()
    assert content(copy.path)["last.raw"] == before["last.raw"]


def test_the_temporary_file_of_a_drill_is_deleted(copy: Made, tmp_path: Path) -> None:
    """When its callable comes back soon enough."""
    place = tmp_path / "drill"
    place.mkdir()
    drill = "daemon(lambda: archive.drill(command=lambda path: time.sleep(2), dir=sys.argv[2]))"
    assert run(BEGIN + drill + END, copy.path, place) == (0, "end\n", "")
    assert list(place.iterdir()) == []


def test_an_operation_works_at_the_end(copy: Made) -> None:
    """A function that atexit calls may back up, in its thread and in another one, before and after backy's."""
    program = """
import atexit, sys, threading

def back_up(tag):
    def work():
        import backy
        done.append(backy.Archive(sys.argv[1]).backup(tags=[tag], progress=lambda p: None))
    done = []
    if sys.version_info < (3, 12):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    else:
        work()
    print(tag, done[0].revision is not None, flush=True)

atexit.register(back_up, "after")
import backy
atexit.register(back_up, "before")
"""
    assert run(program, copy.path) == (0, "before True\nafter True\n", "")
    tags = [revision.tags for revision in Archive(copy.path).revisions[:2]]
    assert [set(tag) for tag in tags] == [{"after"}, {"before"}]


def test_a_thread_that_is_waited_for_finishes(copy: Made) -> None:
    """Only daemon threads are stopped: the interpreter waits for all others, before anything of backy ends."""
    program = BEGIN + "threading.Thread(target=lambda: archive.backup(force=True, limit_rate='256K')).start()"
    assert run(program, copy.path) == (0, "", "")
    assert len(Archive(copy.path).revisions) == 4


def test_a_thread_that_mounts_again_and_again_leaves_none(made: Made, place: Path) -> None:
    """Whatever it is doing at that moment."""
    program = (
        BEGIN
        + """
def mount_and_unmount():
    with archive.mount(sys.argv[2]):
        pass
daemon(lambda: forever(mount_and_unmount))
"""
    )
    for _ in range(5):
        assert run(program + END, made.path, place) == (0, "end\n", "")
        assert str(place) not in Path("/proc/self/mountinfo").read_text()


def test_a_mount_at_the_end_is_taken_away(made: Made, place: Path) -> None:
    """Whoever refers to it, a daemon thread included."""
    for holder in ("mount", "thread = (lambda held: daemon(lambda: (held, time.sleep(60))))(mount)\ndel mount"):
        program = BEGIN + f"mount = archive.mount(sys.argv[2])\n{holder}\n" + END
        assert run(program, made.path, place) == (0, "end\n", "")
        assert str(place) not in Path("/proc/self/mountinfo").read_text()
        assert list(place.iterdir()) == []
