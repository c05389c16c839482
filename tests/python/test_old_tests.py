"""The old project's own tests of 2014: doc/python.md says of each whether it passes, and is right.

Each test here has the name of the one of then. It shows what that one showed, or the difference that the
document names.
"""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import backy.backup
from backy.backup import Backup
from backy.revision import DeltaRevision, FullRevision, Revision
from conftest import CHECKOUT, content

MIB = 1 << 20
FULL = "528f6c52-d4a6-4237-806a-78207688f511"
DELTA = "de8285c3-af53-4967-a257-e66ea24f1020"
pytestmark = pytest.mark.filterwarnings("ignore:.* is of 2014. use .*:DeprecationWarning")


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A copy of the archive that the old tests scrub."""
    folder = tmp_path / "sample"
    shutil.copytree(CHECKOUT / "tests/legacy/scrub-consistent", folder)
    return folder


def recorded(sample: Path, uuid: str) -> Any:
    return json.loads((sample / f"{uuid}.rev").read_text())


def passes(call: Callable[..., None]) -> Callable[..., None]:
    call.__doc__ = "passes"
    return call


def differs(call: Callable[..., None]) -> Callable[..., None]:
    call.__doc__ = "differs"
    return call


@passes
def test_smoketest_internal(tmp_path: Path) -> None:
    chooser = random.Random(2014)
    states = [chooser.randbytes(20 * MIB) for _ in range(3)]
    sources = []
    for number, state in enumerate(states, 1):
        sources.append(tmp_path / f"image{number}.qemu")
        sources[-1].write_bytes(state)
    folder, target = tmp_path / "image1.backup", tmp_path / "image1.restore"
    folder.mkdir()
    backup = Backup(str(folder))
    backup.init(str(sources[0]))
    levels: list[bytes] = []
    for number in (0, 1, 1, 2):
        backup.backup(str(sources[number]))
        levels.insert(0, states[number])
        for level, state in enumerate(levels):
            backup.restore(str(target), level)
            assert target.read_bytes() == state, level
    assert len(levels) == 4


@differs
def test_smoketest_external(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"x" * MIB)
    command = [sys.executable, "-m", "backy", "-b", str(tmp_path / "archive")]
    subprocess.run([*command, "init", str(tmp_path / "image")], check=True)
    done = subprocess.run([*command, "backup"], check=True, capture_output=True, text=True)
    assert "READ" not in done.stdout
    for gone in ("ls", "clean"):
        assert subprocess.run([*command, gone], capture_output=True, check=False).returncode == 1


@differs
def test_revision_base(sample: Path) -> None:
    with pytest.raises(TypeError):
        Revision("asdf", Backup(str(sample)))  # type: ignore[call-arg, arg-type]
    backup = Backup(str(sample))
    revision = backup.find_revision(FULL)
    assert (revision.uuid, revision.backup) == (FULL, backup)


@passes
def test_revision_select_type() -> None:
    # Where the tests of March 2014 import them from.
    for kind in (Revision, FullRevision, DeltaRevision):
        assert getattr(backy.backup, kind.__name__) is kind
    assert Revision.select_type("full") is FullRevision
    assert Revision.select_type("delta") is DeltaRevision
    with pytest.raises(ValueError, match="foobar"):
        Revision.select_type("foobar")


@differs
def test_revision_create_full() -> None:
    assert not hasattr(FullRevision, "create")


@differs
def test_revision_create_delta() -> None:
    assert not hasattr(DeltaRevision, "create")


def loads(sample: Path, uuid: str) -> None:
    assert not hasattr(Revision, "load")
    backup = Backup(str(sample))
    revision, values = backup.revisions[uuid], recorded(sample, uuid)
    for name in ("uuid", "timestamp", "checksum", "parent", "blocks", "type"):
        assert getattr(revision, name) == values[name], name
    assert revision.blocksums == {int(number): text for number, text in values["blocksums"].items()}
    assert revision.backup is backup


@differs
def test_load_full_sample1(sample: Path) -> None:
    loads(sample, FULL)


@differs
def test_load_delta_sample1(sample: Path) -> None:
    loads(sample, DELTA)


@passes
def test_filenames_based_on_uuid_and_backup_dir(sample: Path) -> None:
    revision = Backup(str(sample)).find_revision(DELTA)
    assert revision.filename == f"{sample}/{DELTA}"
    assert revision.info_filename == f"{sample}/{DELTA}.rev"


@differs
def test_store_full_revision_data() -> None:
    assert not hasattr(FullRevision, "write_info")


@differs
def test_store_delta_revision_data() -> None:
    assert not hasattr(DeltaRevision, "write_info")


@passes
def test_scrub_full_consistent(sample: Path) -> None:
    revision = Backup(str(sample)).find_revision(FULL)
    assert (revision.type, revision.scrub()) == ("full", [])


@passes
def test_scrub_delta_consistent(sample: Path) -> None:
    revision = Backup(str(sample)).find_revision(DELTA)
    assert (revision.type, revision.scrub()) == ("delta", [])


def finds_what_is_inconsistent(sample: Path, uuid: str, offset: int, printed: pytest.CaptureFixture[str]) -> None:
    with (sample / uuid).open("rb+") as data:
        data.seek(offset)
        data.write(b"\xff")
    before = content(sample)
    revision = Backup(str(sample)).find_revision(uuid)
    sums = revision.blocksums
    assert sums == {int(number): text for number, text in recorded(sample, uuid)["blocksums"].items()}
    for _ in range(2):
        assert revision.scrub(markbad=False) == [1]
        with pytest.raises(backy.ArchiveUnsupportedError, match="cannot be marked"):
            revision.scrub()
    assert content(sample) == before
    # As the backy of then marked it.
    values = recorded(sample, uuid)
    values["blocksums"]["1"] = "bad:" + sums[1]
    (sample / f"{uuid}.rev").write_text(json.dumps(values))
    marked = Backup(str(sample)).find_revision(uuid)
    assert marked.blocksums == {**sums, 1: f"bad:{sums[1]}"}
    assert marked.scrub(markbad=False) == [1]
    assert printed.readouterr().out == ""


@differs
def test_scrub_full_inconsistent(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finds_what_is_inconsistent(sample, FULL, 60, capsys)


@differs
def test_scrub_delta_inconsistent(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finds_what_is_inconsistent(sample, DELTA, 10, capsys)


def test_the_document_describes_each_old_test() -> None:
    text = (CHECKOUT / "doc/python.md").read_text()
    _, below = text.split("\n## The old project's own tests\n", 1)
    rows = re.findall(r"^\| `(test_\w+)` \| (\w+)", below, re.MULTILINE)
    here = {
        name: call.__doc__
        for name, call in globals().items()
        if name.startswith("test_") and call.__doc__ in ("passes", "differs")
    }
    assert len(here) == 15
    assert dict(rows) == here
    assert [name for name, _ in rows] == list(here)


def test_init_of_an_existing_archive_raises_the_exception_that_scripts_catch(tmp_path: Path, sample: Path) -> None:
    """A RuntimeError as then, and the error of today."""
    (tmp_path / "source").write_bytes(b"x")
    backup = Backup(str(tmp_path / "archive"))
    backup.init(str(tmp_path / "source"))
    with pytest.raises(RuntimeError, match="archive") as caught:
        backup.init(str(tmp_path / "source"))
    assert isinstance(caught.value, backy.ArchiveExistsError)
    assert isinstance(caught.value, FileExistsError)
    assert (caught.value.kind, caught.value.path) == ("archive-exists", tmp_path / "archive")
    with pytest.raises(RuntimeError, match="import") as caught:
        Backup(str(sample)).init(str(tmp_path / "source"))
    assert isinstance(caught.value, backy.ArchiveUnsupportedError)


@pytest.mark.damages
def test_blocksums_of_today_are_those_of_the_chunks(tmp_path: Path) -> None:
    """For each chunk in the revision's own file; the rest of the archive need not be read to count them."""
    first = random.Random(1).randbytes(9 * MIB)
    second = first[: 5 * MIB] + b"changed" + first[5 * MIB + 7 :]
    backup = Backup(str(tmp_path / "archive"))
    backup.init(str(tmp_path / "source"))
    for state in (first, second):
        (tmp_path / "source").write_bytes(state)
        backup.backup()
    older, newest = backup.revision_history
    for revision in (older, newest):
        expected = {i: hashlib.md5(chunk).hexdigest() for i, chunk in revision.iterchunks()}
        sums = revision.blocksums
        assert isinstance(sums, dict)
        # Whatever looks at it finds the checksums, and never that one is not computed yet.
        assert dict(revision.blocksums) == {**revision.blocksums} == revision.blocksums.copy() == expected
        assert repr(revision.blocksums) == repr(expected)
        assert json.dumps(revision.blocksums) == json.dumps(expected)
        assert sorted(revision.blocksums.items()) == sorted(expected.items())
        assert revision.blocksums | {} == {} | revision.blocksums == expected
        assert list(revision.blocksums.values()) == list(expected.values())
        assert revision.blocksums.pop(1) == revision.blocksums.setdefault(1, "") == expected[1]
        assert sums.get(1) == sums[1] == expected[1]
        last = revision.blocksums
        assert dict([last.popitem()]).items() <= expected.items()
        assert len(last) == len(expected) - 1
        assert pickle.loads(pickle.dumps(revision.blocksums)) == copy.deepcopy(revision.blocksums) == expected
        assert (revision.blocksums != expected) is False
        assert sums == expected
        assert expected == sums
        assert 7 not in sums
        assert sums.get(7) is None
    assert (list(older.blocksums), list(newest.blocksums)) == ([1], [0, 1, 2])
    with (tmp_path / "archive/last.raw").open("rb+") as image:
        image.write(b"rot")
    assert len(newest.blocksums) == 3
    assert newest.blocksums[0] == "bad:"
    assert newest.blocksums[2] == hashlib.md5(second[8 * MIB :]).hexdigest()
