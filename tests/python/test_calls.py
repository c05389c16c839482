"""Long calls: other threads run meanwhile, and they can be stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import backy
from backy import Archive, Progress
from conftest import Made, content


def test_other_threads_run_during_a_call(large: Made) -> None:
    """The interpreter is let go: a thread that counts gets further during a scrub than one switch would let it."""
    counted = 0
    ended = threading.Event()

    def count() -> None:
        nonlocal counted
        while not ended.is_set():
            counted += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        before = counted
        Archive(large.path).scrub(check_only=True)
        during = counted - before
    finally:
        ended.set()
        thread.join()
    assert during >= 3


def test_progress_is_called_at_a_bounded_rate(large: Made, tmp_path: Path) -> None:
    """At most ten times a second and once at the end, in the thread that called, up to all of the bytes."""
    told: list[tuple[float, Progress]] = []
    threads = set()

    def progress(state: Progress) -> None:
        told.append((time.monotonic(), state))
        threads.add(threading.get_ident())

    Archive(large.path).restore(tmp_path / "target", progress=progress)
    assert threads == {threading.get_ident()}
    last = told[-1][1]
    assert (last.phase, last.bytes_done, last.bytes_total) == ("restore", len(large.sources[0]), len(large.sources[0]))
    times = [at for at, _ in told[:-1]]
    assert all(later - earlier > 0.09 for earlier, later in zip(times, times[1:]))


def test_an_exception_of_progress_stops_the_call_and_is_raised(large: Made, tmp_path: Path) -> None:
    """The archive is as it was, and can be used at once."""
    before = content(large.path)

    class MyError(Exception):
        pass

    def progress(_state: Progress) -> None:
        raise MyError("enough")

    archive = Archive(large.path)
    calls = (
        lambda: archive.backup(force=True, limit_rate="20M", progress=progress),
        lambda: archive.scrub(progress=progress),
        lambda: archive.restore(tmp_path / "target", progress=progress),
        lambda: archive.export(tmp_path / "export.qcow2", progress=progress),
    )
    for call in calls:
        with pytest.raises(MyError, match="enough"):
            call()
    after = content(large.path)
    # What failed is in the history, and nowhere else.
    assert {name for name in after if after[name] != before.get(name)} <= {"history.jsonl", "manifest.json"}
    assert [r.uuid for r in archive.revisions] == [r.uuid for r in Archive(large.path).revisions]
    assert archive.scrub(check_only=True).is_clean


INTERRUPTED = """
import sys, time
import backy
archive = backy.Archive(sys.argv[1])
def progress(state):
    if state.phase == "backup":
        print("running", flush=True)
try:
    archive.backup(force=True, limit_rate=4 << 20, progress=progress)
except KeyboardInterrupt:
    print("stopped", flush=True)
    sys.exit(7)
"""


def test_ctrl_c_stops_a_call_at_once(large: Made) -> None:
    """A KeyboardInterrupt within 200 ms, and no revision more."""
    before = [revision.uuid for revision in Archive(large.path).revisions]
    command = [sys.executable, "-c", INTERRUPTED, str(large.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        lines = [line for line in process.stdout if line != "running\n"]
        took = time.monotonic() - began
        assert process.wait() == 7
    assert lines == ["stopped\n"]
    # Twice what it is meant to take, for a machine that does other work.
    assert took < 0.4
    archive = Archive(large.path)
    assert [revision.uuid for revision in archive.revisions] == before
    assert archive.scrub(check_only=True).is_clean


def test_a_second_writer_learns_who_has_the_lock(large: Made) -> None:
    """LockedError is a BlockingIOError, and names the call and the process."""
    archive = Archive(large.path)
    raised: list[backy.LockedError] = []

    def progress(_state: Progress) -> None:
        if not raised:
            with pytest.raises(BlockingIOError) as locked:
                archive.tag(0, add=["x"])
            assert isinstance(locked.value, backy.LockedError)
            raised.append(locked.value)

    archive.backup(force=True, limit_rate="100M", progress=progress)
    assert "Python" in str(raised[0])
    assert raised[0].path == large.path
