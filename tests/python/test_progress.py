"""What is raised while an operation is at work: it is undone and the exception comes out, or its report is returned."""

from __future__ import annotations

import functools
import itertools
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import backy
from backy import Archive, Progress
from conftest import Made, content


class MyError(Exception):
    pass


class MyEnd(BaseException):
    """No Exception, as KeyboardInterrupt and SystemExit are none."""


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What sys.unraisablehook is given."""
    given: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: given.append((type(what.exc_value), what.object)))
    return given


def uuids(archive: Archive) -> list[str]:
    return [revision.uuid for revision in archive.revisions]


def read(archive: Archive) -> dict[str, bytes]:
    """The bytes of every revision."""
    images = {}
    for uuid in uuids(archive):
        with archive.open(uuid) as image:
            images[uuid] = image.read()
    return images


class Verb:
    """A call, and how to see from outside that it has done its work."""

    def __init__(self, call: Callable[..., Any], is_done: Callable[[], bool]) -> None:
        self.call, self.is_done = call, is_done


def verbs(archive: Archive, folder: Path) -> dict[str, Verb]:
    """All calls that take `progress` and leave something behind."""
    revisions, last_scrub = uuids(archive), archive.status().last_scrub
    target, exported = folder / "target", folder / "exported"
    pulled = folder / "pulled"
    image = archive.open(0)
    with image:
        newest = image.read()
    return {
        "backup": Verb(lambda **how: archive.backup(force=True, **how), lambda: len(uuids(archive)) > len(revisions)),
        "restore": Verb(
            lambda **how: archive.restore(target, **how), lambda: target.exists() and target.read_bytes() == newest
        ),
        "export": Verb(lambda **how: archive.export(exported, **how), exported.exists),
        "scrub": Verb(lambda **how: archive.scrub(**how), lambda: archive.status().last_scrub != last_scrub),
        "rm": Verb(lambda **how: archive.rm(1, force=True, **how), lambda: len(uuids(archive)) < len(revisions)),
        # The oldest has a pinned tag, so that something is merged.
        "maintenance": Verb(
            lambda **how: archive.maintenance(keep=1, **how), lambda: len(uuids(archive)) < len(revisions)
        ),
        "pull": Verb(
            lambda **how: backy.pull(pulled, archive.path, **how),
            lambda: (pulled / "manifest.json").exists() and uuids(Archive(pulled)) == revisions,
        ),
    }


VERBS = ["backup", "restore", "export", "scrub", "rm", "maintenance", "pull"]


@pytest.fixture
def three(tmp_path: Path) -> Archive:
    """Three revisions of 4 MiB, with other blocks changed each time; only the oldest has a pinned tag."""
    source = tmp_path / "source"
    source.write_bytes(bytes([1]) * (4 << 20))
    archive = Archive.init(tmp_path / "archive", source)
    for number in range(3):
        archive.backup(force=True)
        with source.open("r+b") as file:
            file.seek(number << 20)
            file.write(bytes([number + 2]) * (1 << 20))
    archive.tag(2, ["kept"])
    return archive


@pytest.mark.parametrize("verb", VERBS)
def test_an_exception_after_the_work_is_done_does_not_hide_the_report(
    verb: str, three: Archive, tmp_path: Path, unraisable: list[Any]
) -> None:
    """It goes to sys.unraisablehook, with the callback that raised it."""
    chosen = verbs(three, tmp_path)[verb]

    def progress(_state: Progress) -> None:
        if chosen.is_done():
            raise MyError

    report = chosen.call(progress=progress)
    assert isinstance(report, backy.Report)
    assert chosen.is_done()
    assert unraisable == [(MyError, progress)]


@pytest.mark.parametrize("verb", VERBS)
def test_an_exception_after_the_end_carries_the_report(verb: str, three: Archive, tmp_path: Path) -> None:
    """KeyboardInterrupt, SystemExit and their like are raised also when all is done, with the report attached."""
    chosen = verbs(three, tmp_path)[verb]
    for_all = KeyboardInterrupt if verb == "backup" else MyEnd

    def progress(_state: Progress) -> None:
        if chosen.is_done():
            raise for_all

    with pytest.raises(for_all) as raised:
        chosen.call(progress=progress)
    assert chosen.is_done()
    assert isinstance(getattr(raised.value, "report", None), backy.Report)
    if sys.version_info >= (3, 11):
        assert "'report'" in raised.value.__notes__[0]


@pytest.mark.parametrize("verb", VERBS)
def test_a_callback_that_raises_lets_nothing_be_done(verb: str, three: Archive, tmp_path: Path) -> None:
    """However short the operation is: it is called for the first time before the operation does its work."""
    before, images, chosen = content(three.path), read(three), verbs(three, tmp_path)[verb]
    for _ in range(3):
        with pytest.raises(MyError):
            chosen.call(progress=lambda _state: (_ for _ in ()).throw(MyError()))
        assert not chosen.is_done()
    changed = {name for name, text in content(three.path).items() if text != before.get(name)}
    # What failed is in the history; what there is to undo was written down and taken back. A merge opens its delta.
    assert {name for name in changed if not name.endswith(".qcow2")} <= {"history.jsonl", "manifest.json"}
    assert read(three) == images
    assert three.scrub(check_only=True).is_clean


def test_a_slow_first_call_does_not_stop_the_operation_for_good(three: Archive) -> None:
    """A callback that waits for the operation itself gets it in the end."""
    ended = threading.Event()
    before = len(three.revisions)

    def progress(_state: Progress) -> None:
        deadline = time.monotonic() + 20
        while len(three.revisions) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        ended.set()

    assert three.backup(force=True, progress=progress)
    assert ended.is_set()
    assert len(three.revisions) == before + 1


@pytest.fixture
def filtered() -> Iterator[list[BaseException]]:
    """The exceptions that a filter of the logger raises, one for each record."""
    to_raise: list[BaseException] = []

    def refuse(_record: logging.LogRecord) -> bool:
        if to_raise:
            raise to_raise.pop(0)
        return True

    logger = logging.getLogger("backy")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addFilter(refuse)
    yield to_raise
    logger.removeFilter(refuse)
    logger.setLevel(level)


@pytest.mark.damages
def test_an_exception_of_a_log_filter_loses_no_result(
    copy: Made, filtered: list[BaseException], unraisable: list[Any]
) -> None:
    """Either nothing was made and it comes out, or the report is returned and it goes to the hook."""
    archive = Archive(copy.path)
    for _ in range(4):
        with (copy.path / "last.raw").open("r+b") as image:
            image.seek(70_000)
            image.write(b"rotten")
        before = uuids(archive)
        filtered[:] = [MyError()]
        try:
            report = archive.backup(force=True)
        except MyError:
            assert uuids(archive) == before
            assert unraisable == []
        else:
            assert report is not None
            assert uuids(archive) == [report.revision.uuid, *before]
            assert unraisable == [(MyError, logging.getLogger("backy"))]
        assert filtered == [], "nothing was logged"
        unraisable.clear()


def test_ctrl_c_at_any_moment_undoes_or_brings_the_report(three: Archive, unraisable: list[Any]) -> None:
    """A signal handler raises at any moment of short backups: one that raises without a report has made no revision.

    The list has what the call returned before the interpreter can run a handler, as an assignment has not.
    """

    class LateError(Exception):
        pass

    def late(*_arguments: object) -> None:
        raise LateError

    outcomes = set()
    old = signal.signal(signal.SIGALRM, late)
    try:
        for number in range(60):
            before, reports = uuids(three), list[Any]()
            try:
                backup = functools.partial(three.backup, force=True, progress=lambda _state: None)
                signal.setitimer(signal.ITIMER_REAL, 0.002 * (number + 1))
                reports.extend(itertools.starmap(backup, [()]))
                # Until the alarm; unless it came while the callback was called, and looked like one of its own.
                if not unraisable:
                    time.sleep(1)
                unraisable.clear()
            except LateError as error:
                reports = reports or [report for report in [getattr(error, "report", None)] if report]
            outcomes.add(bool(reports))
            assert uuids(three) == [report.revision.uuid for report in reports] + before, number
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert True in outcomes


@pytest.mark.parametrize("wrong", [5, "text", True, object()])
def test_a_progress_that_cannot_be_called_is_refused_at_once(wrong: Any, copy: Made, tmp_path: Path) -> None:
    """As `progress` and as `cancel`, of every call: a TypeError, and not one file has changed."""
    archive, before = Archive(copy.path), content(copy.path)
    calls: list[Callable[..., Any]] = [
        archive.backup,
        archive.maintenance,
        archive.scrub,
        archive.drill,
        lambda **how: archive.backup(dry_run=True, **how),
        lambda **how: archive.restore(tmp_path / "new", **how),
        lambda **how: archive.look_at_target(tmp_path / "new", **how),
        lambda **how: archive.export(tmp_path / "new", **how),
        lambda **how: archive.rm(1, **how),
        lambda **how: Archive.rebuild(copy.path, force=True, **how),
        lambda **how: Archive.import_(tmp_path, tmp_path / "new", **how),
        lambda **how: archive.pull(tmp_path, **how),
        lambda **how: archive.push(tmp_path / "new", **how),
        lambda **how: backy.pull(tmp_path / "new", copy.path, **how),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="progress: expected"):
            call(progress=wrong)
        with pytest.raises(TypeError, match="cancel: expected"):
            call(cancel=wrong)
    with pytest.raises(TypeError, match="cancel: expected"):
        archive.tag(0, ["x"], cancel=wrong)
    with pytest.raises(TypeError, match="cancel: expected"):
        backy.check(copy.path, cancel=wrong)
    assert content(copy.path) == before
    assert not (tmp_path / "new").exists()
