"""Calls are stopped from other threads, by Ctrl-C also in other threads, and at the end of Python."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import backy
from backy import Archive, CancelledError, CancelToken, Progress
from conftest import Made, content


def slow(archive: Archive, **how: Any) -> object:
    """A backup that takes longer than any test may."""
    return archive.backup(force=True, limit_rate=1 << 20, **how)


def uuids(path: Path) -> list[str]:
    return [revision.uuid for revision in Archive(path).revisions]


def long_calls(archive: Archive, folder: Path) -> dict[str, Callable[..., Any]]:
    return {
        "backup": lambda **how: slow(archive, **how),
        "scrub": archive.scrub,
        "scrub -n": lambda **how: archive.scrub(check_only=True, **how),
        "restore": lambda **how: archive.restore(folder / "target", **how),
        "look_at_target": lambda **how: archive.look_at_target(folder / "other", **how),
        "export": lambda **how: archive.export(folder / "exported", level=19, **how),
        "drill": archive.drill,
        "rebuild": lambda **how: Archive.rebuild(archive.path, force=True, **how),
        "pull": lambda **how: backy.pull(folder / "copy", archive.path, **how),
        "push": lambda **how: archive.push(folder / "copy", **how),
    }


def test_every_long_call_is_stopped_from_another_thread(large: Made, tmp_path: Path) -> None:
    """Soon, with CancelledError, and the archive is as it was."""
    archive, before = Archive(large.path), uuids(large.path)
    (tmp_path / "other").write_bytes(bytes(64 << 20))
    for name, call in long_calls(archive, tmp_path).items():
        token, begun = CancelToken(), threading.Event()
        ended: list[float] = []

        def stop(token: CancelToken = token, begun: threading.Event = begun, ended: list[float] = ended) -> None:
            begun.wait(60)
            token.cancel()
            ended.append(time.monotonic())

        def progress(_state: Progress, begun: threading.Event = begun) -> None:
            begun.set()
            # So that none of them is at its end before it is stopped.
            time.sleep(0.2)

        thread = threading.Thread(target=stop)
        thread.start()
        try:
            with pytest.raises(CancelledError) as raised:
                call(cancel=token, progress=progress)
        finally:
            begun.set()
            thread.join()
        assert time.monotonic() - ended[0] < 10, name
        assert raised.value.kind == "interrupted"
        assert isinstance(raised.value, backy.BackyError)
        assert uuids(large.path) == before, name
    assert archive.scrub(check_only=True).is_clean
    assert not (tmp_path / "exported").exists()


def test_a_cancelled_token_lets_nothing_begin(copy: Made, tmp_path: Path) -> None:
    """Not one file is changed, whatever the call is."""
    archive, token = Archive(copy.path), CancelToken()
    assert not token.is_cancelled
    token.cancel()
    token.cancel()
    assert token.is_cancelled
    before = content(copy.path)
    calls = {
        **long_calls(archive, tmp_path),
        "tag": lambda **how: archive.tag(0, ["x"], **how),
        "rm": lambda **how: archive.rm(1, force=True, **how),
        "rm -n": lambda **how: archive.rm(1, force=True, dry_run=True, **how),
        "maintenance": lambda **how: archive.maintenance(keep=1, **how),
        "maintenance -n": lambda **how: archive.maintenance(dry_run=True, **how),
        "backup -n": lambda **how: archive.backup(dry_run=True, **how),
        "import": lambda **how: Archive.import_(tmp_path, tmp_path / "imported", **how),
        "pull -n": lambda **how: backy.pull(tmp_path / "copy", copy.path, dry_run=True, **how),
        "push -n": lambda **how: archive.push(tmp_path / "copy", dry_run=True, **how),
        "check": lambda **how: backy.check(copy.path, **how),
        "run": lambda **how: backy.run(copy.path, **how),
        "run -n": lambda **how: backy.run(copy.path, dry_run=True, **how),
    }
    for name, call in calls.items():
        with pytest.raises(CancelledError):
            call(cancel=token)
        assert content(copy.path) == before, name
    assert not (tmp_path / "imported").exists()
    assert not (tmp_path / "copy").exists()


def test_a_call_that_has_finished_returns_its_report(copy: Made) -> None:
    """cancel() that comes after the work is done does not hide it."""
    archive, token = Archive(copy.path), CancelToken()
    before = len(archive.revisions)

    def progress(_state: Progress) -> None:
        if len(archive.revisions) > before:
            token.cancel()

    report = archive.backup(force=True, cancel=token, progress=progress)
    assert token.is_cancelled
    assert report is not None
    assert report.revision == archive.revisions[0]


def test_a_token_is_cancelled_by_an_exception_that_leaves_its_block() -> None:
    with CancelToken() as token:
        assert isinstance(token, CancelToken)
    assert not token.is_cancelled
    with pytest.raises(KeyboardInterrupt), token:
        raise KeyboardInterrupt
    assert token.is_cancelled
    assert "cancelled" in repr(token)


def test_waiting_for_the_lock_is_cancelled(copy: Made) -> None:
    """By a token, in every call that takes `wait`; the one that has the lock goes on."""
    archive, begun, released = Archive(copy.path), threading.Event(), threading.Event()
    origin = shutil.copytree(copy.path, copy.path.parent / "origin")

    class Slow:
        size = 1 << 20

        def readinto_at(self, offset: int, buffer: memoryview) -> int:
            begun.set()
            released.wait(60)
            return len(buffer)

    calls: dict[str, Callable[..., Any]] = {
        "backup": lambda **how: archive.backup(force=True, **how),
        "scrub": archive.scrub,
        "maintenance": archive.maintenance,
        "rm": lambda **how: archive.rm(1, force=True, **how),
        "tag": lambda **how: archive.tag(0, ["x"], **how),
        "rebuild": lambda **how: Archive.rebuild(copy.path, force=True, **how),
        "pull": lambda **how: archive.pull(origin, **how),
    }
    before = uuids(copy.path)
    with ThreadPoolExecutor() as pool:
        holder = pool.submit(archive.backup, source=Slow(), force=True)
        try:
            assert begun.wait(60)
            for name, call in calls.items():
                token = CancelToken()
                waiting = pool.submit(call, wait="10m", cancel=token)
                time.sleep(0.3)
                assert not waiting.done(), name
                token.cancel()
                with pytest.raises(CancelledError):
                    waiting.result(20)
        finally:
            released.set()
        assert holder.result(60)
    assert uuids(copy.path)[1:] == before


def test_cancelling_a_task_stops_its_thread_by_token(large: Made) -> None:
    """asyncio: the pattern of doc/python.md."""
    archive, before = Archive(large.path), uuids(large.path)
    ended: list[BaseException] = []

    def work(cancel: CancelToken) -> None:
        try:
            slow(archive, cancel=cancel)
        except BaseException as error:
            ended.append(error)
            raise

    async def backup() -> None:
        with CancelToken() as cancel:
            await asyncio.get_running_loop().run_in_executor(None, work, cancel)

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(backup(), 0.5)

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 15
    assert [type(error) for error in ended] == [CancelledError]
    assert uuids(large.path) == before


def test_the_operation_of_a_future_is_cancelled_and_the_future_is_not(large: Made) -> None:
    with ThreadPoolExecutor() as pool, CancelToken() as token:
        running = pool.submit(slow, Archive(large.path), cancel=token)
        time.sleep(0.3)
        token.cancel()
        with pytest.raises(CancelledError):
            running.result(20)
        assert not running.cancelled()


HEAD = """
import asyncio, concurrent.futures, signal, sys, threading, time
import backy
archive = backy.Archive(sys.argv[1])
def work(**how):
    first = threading.Event()
    def progress(state):
        if not first.is_set():
            first.set()
            print("running", flush=True)
    try:
        archive.backup(force=True, limit_rate=1 << 20, progress=progress, wait="10m", **how)
    except BaseException as error:
        print(type(error).__name__, flush=True)
        raise
"""

PROGRAMS = {
    "a thread that the main one waits for": """
thread = threading.Thread(target=work)
thread.start()
try:
    threading.Event().wait()
except KeyboardInterrupt:
    thread.join()
""",
    "a thread that is joined by Python at its end": """
threading.Thread(target=work).start()
time.sleep(100)
""",
    "a pool": """
with concurrent.futures.ThreadPoolExecutor() as pool:
    pool.submit(work).result()
""",
    "a pool with a queue, joined by Python at its end": """
pool = concurrent.futures.ThreadPoolExecutor(1)
running = [pool.submit(work) for _ in range(5)]
running[0].result()
time.sleep(100)
""",
    "a pool with a queue and a token": """
with concurrent.futures.ThreadPoolExecutor(1) as pool, backy.CancelToken() as cancel:
    for running in [pool.submit(work, cancel=cancel) for _ in range(5)]:
        running.result()
""",
    "asyncio": """
async def main():
    await asyncio.get_running_loop().run_in_executor(None, work)
asyncio.run(main())
""",
    "a handler of its own with a token": """
token = backy.CancelToken()
signal.signal(signal.SIGINT, lambda *_: (print("handler", flush=True), token.cancel()))
thread = threading.Thread(target=work, kwargs={"cancel": token})
thread.start()
thread.join()
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_ctrl_c_reaches_operations_in_other_threads(name: str, large: Made) -> None:
    """The process ends soon, the operation with CancelledError, and no revision more."""
    before = uuids(large.path)
    command = [sys.executable, "-c", HEAD + PROGRAMS[name], str(large.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        # Python may miss a signal that comes just before its main thread begins to wait for another.
        time.sleep(0.3)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        try:
            out, _ = process.communicate(timeout=25)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert time.monotonic() - began < 20
    assert "CancelledError" in out
    assert uuids(large.path) == before


def test_a_handler_of_the_program_decides(large: Made, tmp_path: Path) -> None:
    """Its own handler for SIGINT is called, is the one that getsignal gives, and stops nothing."""
    program = """
import signal, sys, threading, time
import backy
came = []
def handler(*_):
    came.append(1)
signal.signal(signal.SIGINT, handler)
archive = backy.Archive(sys.argv[1])
done = []
def interrupt(state):
    if len(came) < 3:
        signal.raise_signal(signal.SIGINT)
def work():
    done.append(archive.restore(sys.argv[2], progress=interrupt))
thread = threading.Thread(target=work)
thread.start()
while thread.is_alive():
    time.sleep(0.01)
assert signal.getsignal(signal.SIGINT) is handler
assert len(came) >= 1, came
assert done[0].is_exact
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("as ever")
"""
    command = [sys.executable, "-c", program, str(large.path), str(tmp_path / "target")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "as ever\n", "")


def test_a_thread_continues_when_the_program_ends_without_ctrl_c(copy: Made) -> None:
    """Python waits for it, and the backup is made."""
    before = uuids(copy.path)
    program = "import backy, sys, threading; a = backy.Archive(sys.argv[1])\n"
    program += "threading.Thread(target=lambda: a.backup(force=True, limit_rate='300k')).start()"
    subprocess.run([sys.executable, "-c", program, str(copy.path)], check=True, timeout=60)
    assert len(uuids(copy.path)) == len(before) + 1
