"""Archives, reports, progress and errors go from process to process and can be copied; open things refuse clearly."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import backy
import every
from backy import Archive, Progress
from conftest import Made, can_mount, flip, skip

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def trips(value: Any) -> list[Any]:
    """The value after each way that it can go."""
    pickled = [pickle.loads(pickle.dumps(value, protocol)) for protocol in PROTOCOLS]
    return [*pickled, copy.copy(value), copy.deepcopy(value)]


def attributes(report: Any) -> dict[str, Any]:
    """All that a report says, by its properties."""
    return {
        name: getattr(report, name)
        for name, kind in vars(type(report)).items()
        if not name.startswith("_") and not callable(getattr(report, name)) and kind is not None
    }


@pytest.mark.damages
def test_every_report_survives_every_way(tmp_path: Path) -> None:
    """Equal, of the same class, with the same hash, JSON and properties."""
    for name, reports in every.instances(tmp_path).items():
        for report in reports:
            for again in trips(report):
                assert type(again) is type(report), name
                assert again == report, name
                assert hash(again) == hash(report), name
                assert again.to_dict() == report.to_dict(), name
                assert attributes(again) == attributes(report), name


def test_progress_survives_every_way() -> None:
    state = pickle.loads(b"cbacky._pickle\nprogress\n(Vscrub\nI5\nI10\ntR.")
    assert isinstance(state, Progress)
    assert (state.phase, state.bytes_done, state.bytes_total) == ("scrub", 5, 10)
    for again in trips(state):
        assert again == state
        assert hash(again) == hash(state)
        assert repr(again) == "<backy.Progress phase='scrub' bytes_done=5 bytes_total=10>"
    with pytest.raises(ValueError, match="'cooking' is no phase"):
        pickle.loads(b"cbacky._pickle\nprogress\n(Vcooking\nI5\nI10\ntR.")


def test_an_archive_keeps_its_folder_and_its_trust(copy: Made) -> None:
    """Also when the folder has gone meanwhile: a worker can be told of an error only when it calls something."""
    for trust in (False, True):
        archive = Archive(copy.path, trust=trust)
        for again in trips(archive):
            assert again == archive
            assert hash(again) == hash(archive)
            assert again.path == copy.path
            assert again.revisions == archive.revisions
            assert again != Archive(copy.path, trust=not trust)
    pickled = pickle.dumps(archive)
    shutil.rmtree(copy.path)
    gone = pickle.loads(pickled)
    with pytest.raises(backy.ArchiveNotFoundError):
        gone.status()


def test_trust_decides_after_the_trip_as_before(copy: Made) -> None:
    """An archive that anybody can change is changed only where that was given."""
    copy.path.chmod(0o777)
    for again in trips(Archive(copy.path)):
        with pytest.raises(backy.UntrustedError):
            again.tag(0, ["new"])
    for again in trips(Archive(copy.path, trust=True)):
        assert "new" in again.tag(0, ["new"])


def back_up(archive: Archive) -> Any:
    return archive.backup(force=True)


def fail(path: str) -> None:
    Archive(path)


def test_a_worker_gets_an_archive_and_gives_a_report(tmp_path: Path) -> None:
    """In a process that starts anew; an error that it raises has all that it had there."""
    source = tmp_path / "source"
    source.write_bytes(bytes(100_000))
    archive = Archive.init(tmp_path / "archive", source)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        report = pool.submit(back_up, archive).result()
        assert report.revision == archive.revisions[0]
        assert (report.revision.number, report.revision.damaged) == (0, ())
        with pytest.raises(backy.ArchiveNotFoundError) as raised:
            pool.submit(fail, "/nonexistent").result()
    error = raised.value
    assert (error.kind, error.errno, error.filename) == ("no-archive", 2, "/nonexistent")
    assert error.path == Path("/nonexistent")
    assert error.strerror == os.strerror(2)


def state_of(error: backy.BackyError) -> dict[str, Any]:
    names = ("kind", "path", "offset", "revision", "errno", "strerror", "filename", "filename2", "args", "__notes__")
    state = {name: getattr(error, name, None) for name in names}
    return {**state, "text": str(error), "mine": vars(error).get("mine")}


@pytest.mark.damages
def test_errors_keep_all_their_attributes(copy: Made) -> None:
    """Those of backy, of OSError, notes and what a program has added; a cause that is one of backy's."""
    archive = Archive(copy.path)
    flip(copy.path / "last.raw", 140000)
    calls = (
        lambda: Archive("/nonexistent"),
        lambda: Archive(os.fsdecode(b"/non\xffexistent")),
        lambda: Archive.init(copy.path),
        lambda: archive.find("deadbeef"),
        lambda: archive.restore(copy.path),
        lambda: archive.find(""),
        lambda: read_all(archive),
        lambda: archive.backup(source="/nonexistent", force=True),
    )
    kinds = set()
    for call in calls:
        with pytest.raises(backy.BackyError) as raised:
            call()
        error = raised.value
        kinds.add(error.kind)
        vars(error).update(mine=["own"], __notes__=["seen at night"])
        for again in trips(error):
            assert type(again) is type(error)
            assert state_of(again) == state_of(error)
            assert again.__cause__ is None
            error.__cause__ = backy.TargetError("the cause")
            with_cause = pickle.loads(pickle.dumps(error))
            assert repr(with_cause.__cause__) == "TargetError('the cause')"
            # Hardly any other exception can be relied on to go into a pickle.
            error.__cause__ = RuntimeError(lambda: None)
            assert pickle.loads(pickle.dumps(error)).__cause__ is None
            error.__cause__ = None
    assert {"no-archive", "archive-exists", "no-such-revision", "target", "specification", "damaged", "source"} == kinds


def test_every_class_of_errors_can_be_pickled_as_it_is_made() -> None:
    classes: list[Any] = [value for value in vars(backy).values() if isinstance(value, type)]
    classes = [value for value in classes if issubclass(value, backy.BackyError)]
    assert len(classes) > 15
    for kind in classes:
        for made in (kind(), kind("why")):
            for again in trips(made):
                assert type(again) is kind
                assert (again.args, str(again)) == (made.args, str(made))


def read_all(archive: Archive) -> bytes:
    with archive.open() as image:
        return image.read()


def test_open_objects_refuse_to_be_pickled_with_a_reason(made: Made, tmp_path: Path) -> None:
    archive = Archive(made.path)
    open_ones: list[Any] = [archive.open()]
    if can_mount():
        open_ones.append(archive.mount(tmp_path))
    else:
        skip("mounting needs root, FUSE and loop devices")
    for value in open_ones:
        for way in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=rf"backy\.{type(value).__name__} cannot be pickled or copied"):
                way(value)
    with archive.open(buffered=True) as buffered, pytest.raises(TypeError):
        pickle.dumps(buffered)
    open_ones[0].close()
    open_ones[1].unmount()


def others() -> list[str]:
    """Pythons of other versions on this machine; the wheel is one for all of them."""
    found: dict[int, str] = {}
    for minor in range(9, 20):
        for folder in [*Path("/root/.pyenv/versions").glob(f"3.{minor}.*/bin"), *map(Path, os.get_exec_path())]:
            if minor != sys.version_info.minor and (folder / f"python3.{minor}").exists():
                found.setdefault(minor, str(folder / f"python3.{minor}"))
    return list(found.values())


def test_a_pickle_is_read_by_other_versions_of_python(made: Made, tmp_path: Path) -> None:
    """Also from and to those in which the classes of pathlib are in another module."""
    archive = Archive(made.path)
    with pytest.raises(backy.BackyError) as raised:
        Archive("/nonexistent")
    file, back = tmp_path / "pickle", tmp_path / "back"
    values: list[Any] = [archive, archive.status(), archive.revisions, raised.value]
    file.write_bytes(pickle.dumps(values))
    for name in (b"pathlib", b"datetime"):
        assert name not in file.read_bytes()
    script = (
        "import pickle, sys; values = pickle.load(open(sys.argv[1], 'rb'));"
        "assert str(values[3].path) == '/nonexistent' and values[3].errno == 2;"
        "assert values[1].archive == values[0].path;"
        "pickle.dump(values, open(sys.argv[2], 'wb'))"
    )
    # No other version need be there: that nothing of Python's own is in the pickle is tested above in any case.
    environment = {**os.environ, "PYTHONPATH": str(Path(backy.__file__).parents[1])}
    for python in others():
        subprocess.run([python, "-c", script, file, back], check=True, env=environment)
        again = pickle.loads(back.read_bytes())
        assert again[:3] == values[:3]
        assert state_of(again[3]) == state_of(values[3])
