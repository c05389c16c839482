"""Scripts of 2014 run: on archives of today in full, on those of then as far as they read. Every old name warns."""

import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Union

import pytest

import backy
from conftest import CHECKOUT, can_mount, skip

with warnings.catch_warnings():
    warnings.simplefilter("error")
    from backy.backup import Backup, format_timestamp
    from backy.revision import DeltaRevision, FullRevision, Revision

MIB = 1 << 20
CHUNK = 4 * MIB
OLD = "ignore:.* is of 2014. use .*:DeprecationWarning"
pytestmark = pytest.mark.filterwarnings(OLD)

# Changed since then in nothing but its prints and file modes.
SCRIPT_OF_2014 = """
import filecmp
import os
import shutil
import sys
from backy.backup import Backup, format_timestamp
from backy.revision import Revision, FullRevision, DeltaRevision

base = sys.argv[1]
source = os.path.join(base, 'disk.img')
states = []


def write(number):
    f = open(source, 'rb+' if os.path.exists(source) else 'wb')
    f.seek(0)
    for i in range(6):
        f.write(os.urandom(1024) * 2048)
    f.seek(number * 4 * 1024 * 1024)
    f.write(b'state %d' % number)
    f.close()
    state = os.path.join(base, 'state.%d' % number)
    shutil.copy(source, state)
    states.append(state)


b = Backup(os.path.join(base, 'archive'))
b.init(source)
for number in range(3):
    write(number)
    b.backup()

assert len(b.revisions) == 3
for number, state in enumerate(reversed(states)):
    target = os.path.join(base, 'restored.%d' % number)
    b.restore(target, number)
    assert filecmp.cmp(target, state, shallow=False), number
    b.restore(os.path.join(base, 'again'), str(number))
    assert filecmp.cmp(os.path.join(base, 'again'), state, shallow=False), number

b.scrub('all')
b.scrub('last', markbad=True)
b.status()
for r in b.revision_history:
    print('%s %s %s %d' % (r.uuid, format_timestamp(r.timestamp), r.type, r.blocks))
    assert r.scrub() == []
    assert isinstance(r, Revision)
    data = b''.join(chunk for i, chunk in r.iterchunks(full=True))
    assert data == open(states.pop(0), 'rb').read()
    for i, chunk in r.iterchunks():
        assert r.getChunk(i) == chunk
assert isinstance(b.find_revision('last'), FullRevision)
assert isinstance(b.find_revision(1), DeltaRevision)
assert b.find_revision('last').uuid == b.revision_history[-1].uuid

b.maintenance(keep=2)
assert len(b.find_revisions('all')) == 2
b.revision_history[0].remove()
assert list(b.revisions) == [b.find_revision('last').uuid]
print('done')
"""


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Path, list[bytes]]:
    """An archive of today with three revisions, and what they are, oldest first."""
    # No two blocks are the same, so that none can be mended by another.
    first = random.Random(2014).randbytes(10 * MIB)
    second = first[:MIB] + b"changed" + first[MIB + 7 :] + b"an odd end"
    third = second[: 9 * MIB] + bytes(MIB)
    source = tmp_path / "source.img"
    source.touch()
    made = backy.Archive.init(tmp_path / "archive", source)
    for state in (first, second, third):
        source.write_bytes(state)
        made.backup(force=True)
    return tmp_path / "archive", [first, second, third]


@pytest.fixture
def then(tmp_path: Path) -> tuple[Path, list[bytes]]:
    """A copy of the archive that backy made in 2014, and what its revisions are, oldest first."""
    sample = CHECKOUT / "tests/legacy/scrub-consistent"
    copy = tmp_path / "then"
    shutil.copytree(sample, copy)
    one, two = ((sample / name).read_bytes() for name in ("original.1", "original.2"))
    return copy, [two, two, one]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_script_of_2014_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "always", "-c", SCRIPT_OF_2014, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "done"
    assert [line.split()[-2:] for line in lines[-4:-1]] == [["delta", "3"], ["delta", "3"], ["full", "3"]]
    assert "backy.backup.Backup.init is of 2014: use backy.Archive.init" in done.stderr


def test_a_sum_of_names_is_there_and_each_warns(archive: tuple[Path, list[bytes]], tmp_path: Path) -> None:
    """All names of the contract: the warning names the new call, at the line that calls."""

    def warned(new: str, call: Any) -> Any:
        with pytest.warns(DeprecationWarning, match=" is of 2014: use ") as caught:
            result = call()
        mine = [each for each in caught if each.filename == __file__]
        assert len(mine) == len(caught) == 1, [str(each.message) for each in caught]
        assert str(mine[0].message).endswith(f"use {new}"), mine[0].message
        return result

    path, states = archive
    backup = warned("backy.Archive", lambda: Backup(str(path)))
    assert warned("backy.Archive.path", lambda: backup.path) == str(path)
    assert warned("backy.Archive.source", lambda: backup.source) == str(tmp_path / "source.img")
    revisions = warned("backy.Archive.revisions", lambda: backup.revisions)
    history = warned("backy.Archive.revisions", lambda: backup.revision_history)
    warned("backy.Archive.backup(force=True)", lambda: backup.backup())
    warned("backy.Archive.restore", lambda: backup.restore(str(tmp_path / "out"), "last"))
    warned("backy.Archive.scrub", lambda: backup.scrub("all"))
    warned("backy.Archive.status", lambda: backup.status())
    warned("backy.Archive.revisions", lambda: backup.find_revision(0))
    warned("backy.Archive.select", lambda: backup.find_revisions("all"))
    warned("backy.Archive.maintenance", lambda: backup.maintenance(4))
    other = Backup(str(tmp_path / "other"))
    warned("backy.Archive.init", lambda: other.init("/dev/null"))
    warned("backy.Revision.timestamp, a datetime", lambda: format_timestamp(0))
    oldest = history[0]
    assert warned("backy.Revision.uuid", lambda: oldest.uuid) in revisions
    warned("backy.Revision.timestamp", lambda: oldest.timestamp)
    warned("backy.Revision.digest", lambda: oldest.checksum)
    warned("backy.Revision.base", lambda: oldest.parent)
    warned("backy.Revision.size", lambda: oldest.blocks)
    warned("backy.Archive.find", lambda: oldest.filename)
    warned("backy.Archive.revisions", lambda: oldest.info_filename)
    warned("backy.Archive.scrub", lambda: oldest.scrub())
    warned("backy.Archive.restore", lambda: oldest.restore(str(tmp_path / "out2")))
    warned("backy.Archive.open", lambda: list(oldest.iterchunks()))
    warned("backy.Archive.open", lambda: oldest.getChunk(0))
    warned("backy.Archive.rm", lambda: oldest.remove())
    assert (tmp_path / "out2").read_bytes() == states[0]


def test_the_new_calls_that_are_named_exist() -> None:
    text = "".join((CHECKOUT / f"backy-py/python/backy/{name}.py").read_text() for name in ("backup", "revision"))
    named = set(re.findall(r'@deprecated\("backy\.([\w.]+)', text))
    assert len(named) > 10
    for name in named:
        value: Any = backy
        for part in name.split("."):
            value = getattr(value, part)


def test_revisions_of_today_have_the_content_of_the_source(archive: tuple[Path, list[bytes]]) -> None:
    path, states = archive
    backup = Backup(str(path))
    history = backup.revision_history
    today = list(reversed(backy.Archive(path).revisions))
    assert [each.uuid for each in history] == [each.uuid for each in today]
    assert {uuid: each.uuid for uuid, each in backup.revisions.items()} == {each.uuid: each.uuid for each in today}
    for number, (each, state, now) in enumerate(zip(history, states, today)):
        assert b"".join(chunk for _, chunk in each.iterchunks(full=True)) == state
        assert [i for i, _ in each.iterchunks(full=True)] == list(range(each.blocks)) == [0, 1, 2]
        assert each.getChunk(2) == state[2 * CHUNK :]
        assert each.getChunk(3) == b""
        assert each.timestamp == now.timestamp.timestamp()
        assert each.checksum == now.digest
        assert Path(each.filename).exists()
        assert json.loads(Path(each.info_filename).read_text())["revisions"]
        assert each.parent == (history[number + 1].uuid if number < 2 else None)
        with pytest.raises(ValueError, match="-1"):
            each.getChunk(-1)
    assert [each.type for each in history] == ["delta", "delta", "full"]
    assert [type(each) for each in history] == [DeltaRevision, DeltaRevision, FullRevision]
    assert Path(history[2].filename).read_bytes() == states[2]


def test_own_chunks_are_those_with_changes(archive: tuple[Path, list[bytes]]) -> None:
    path, states = archive
    own = [dict(each.iterchunks()) for each in Backup(str(path)).revision_history]
    # The first differs from the second where 7 bytes were changed, the second from the third in its last MiB.
    assert [sorted(chunks) for chunks in own] == [[0], [2], [0, 1, 2]]
    assert own[0][0] == states[0][:CHUNK]
    assert own[1][2] == states[1][2 * CHUNK :]


def test_find_revision_takes_the_old_names(archive: tuple[Path, list[bytes]]) -> None:
    backup = Backup(str(archive[0]))
    oldest, middle, newest = (each.uuid for each in backup.revision_history)
    specs: list[tuple[Union[str, int], str]] = [("last", newest), (0, newest), ("1", middle), (2, oldest)]
    for spec, uuid in [*specs, (oldest, oldest), ("first", oldest), (middle[:-4], middle)]:
        found = backup.find_revision(spec)
        assert isinstance(found, Revision)
        assert found.uuid == uuid
        assert [each.uuid for each in backup.find_revisions(spec)] == [uuid]
    assert [each.uuid for each in backup.find_revisions("all")] == [oldest, middle, newest]
    for wrong in (3, "3", -1, "nothing-like-it", "all"):
        with pytest.raises(KeyError) as caught:
            backup.find_revision(wrong)
        assert isinstance(caught.value, IndexError)
        assert isinstance(caught.value, backy.BackyError)
        assert "\n" not in str(caught.value)


def test_scrub_names_the_bad_chunks(archive: tuple[Path, list[bytes]], capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = archive
    with (path / "last.raw").open("rb+") as image:
        image.seek(5 * MIB)
        image.write(b"rot")
    backup = Backup(str(path))
    newest = backup.find_revision("last")
    assert newest.scrub(markbad=False) == [1]
    backup.scrub("all")
    assert f"{newest.uuid}: chunk 000001 is bad" in capsys.readouterr().out
    assert newest.scrub() == [1]
    with pytest.raises(backy.BackyError):
        newest.getChunk(1)
    with pytest.raises(backy.BackyError):
        backup.restore(str(path.parent / "target"), "last")


def test_a_repaired_block_is_not_bad(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"the same" * MIB)
    backup = Backup(str(tmp_path / "archive"))
    backup.init(str(tmp_path / "source"))
    backup.backup()
    newest = backup.find_revision("last")
    with open(newest.filename, "rb+") as image:
        image.write(b"rot")
    assert newest.scrub(markbad=False) == [0]
    assert newest.scrub() == []
    assert newest.getChunk(0) == b"the same" * (CHUNK // 8)


def test_maintenance_keeps_the_newest(archive: tuple[Path, list[bytes]]) -> None:
    path, states = archive
    backup = Backup(str(path))
    before = [each.uuid for each in backup.revision_history]
    backup.maintenance(0)
    backup.maintenance(3)
    assert [each.uuid for each in backup.revision_history] == before
    backup.maintenance(keep=2)
    assert [each.uuid for each in backup.revision_history] == before[1:]
    with pytest.raises(ValueError, match="-1"):
        backup.maintenance(-1)
    assert backup.find_revision(1).getChunk(0) == states[1][:CHUNK]


def test_the_table_of_status(archive: tuple[Path, list[bytes]], capsys: pytest.CaptureFixture[str]) -> None:
    backup = Backup(str(archive[0]))
    backup.status()
    lines = capsys.readouterr().out.splitlines()
    expected = [
        f"{format_timestamp(each.timestamp)}\t{count}\t{each.uuid}"
        for each, count in zip(backup.revision_history, (1, 1, 3))
    ]
    assert lines[1:4] == expected
    assert lines[-1].startswith("3 revisions, 5 blocks")


def test_a_source_may_be_given_and_relative_ones_are_from_the_archive(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"one" * 1000)
    (tmp_path / "two").write_bytes(b"two" * 1000)
    backup = Backup(str(tmp_path / "archive"))
    backup.init("../one")
    assert backup.source == str(tmp_path / "one")
    backup.backup(str(tmp_path / "two"))
    assert backup.find_revision("last").getChunk(0) == b"two" * 1000
    backup.backup()
    assert backup.find_revision("last").getChunk(0) == b"one" * 1000
    with pytest.raises(backy.BackyError):
        backup.init("../one")


def test_a_source_need_not_be_there_when_the_archive_is_made(tmp_path: Path) -> None:
    backup = Backup(str(tmp_path / "archive"))
    backup.init(str(tmp_path / "later"))
    with pytest.raises(backy.SourceError):
        backup.backup()
    (tmp_path / "later").write_bytes(b"now")
    backup.backup()
    assert backup.find_revision("last").getChunk(0) == b"now"


def test_no_archive_is_an_error_when_one_is_needed(tmp_path: Path) -> None:
    backup = Backup(str(tmp_path / "none"))
    for call in (backup.backup, backup.status, lambda: backup.revisions, lambda: backup.source):
        with pytest.raises(backy.ArchiveNotFoundError, match="none"):
            call()


def test_archives_of_then_are_read(then: tuple[Path, list[bytes]], capsys: pytest.CaptureFixture[str]) -> None:
    path, states = then
    before = content(path)
    backup = Backup(str(path))
    assert (backup.path, backup.source) == (str(path), str(path / "original"))
    history = backup.revision_history
    for each, state in zip(history, states):
        recorded = json.loads(Path(each.info_filename).read_text())
        assert each.uuid == recorded["uuid"]
        assert each.timestamp == recorded["timestamp"]
        assert each.checksum == recorded["checksum"] == hashlib.md5(state).hexdigest()
        assert each.parent == recorded["parent"]
        assert each.blocks == recorded["blocks"] == 4
        assert each.type == recorded["type"]
        assert each.filename == str(path / each.uuid)
        assert each.info_filename == str(path / f"{each.uuid}.rev")
        assert [i for i, _ in each.iterchunks()] == sorted(int(i) for i in recorded["blocksums"])
        assert b"".join(chunk for _, chunk in each.iterchunks(full=True)) == state
        assert each.getChunk(1) == state[50:100]
        assert each.getChunk(4) == b""
        assert each.scrub() == each.scrub(markbad=False) == []
        each.restore(str(path.parent / "target"))
        assert (path.parent / "target").read_bytes() == state
    assert [type(each) for each in history] == [DeltaRevision, DeltaRevision, FullRevision]
    assert backup.find_revision("last").uuid == history[2].uuid
    assert backup.find_revision(2).uuid == backup.find_revision(history[0].uuid).uuid == history[0].uuid
    assert [each.uuid for each in backup.find_revisions("all")] == list(backup.revisions)
    backup.restore(str(path.parent / "target"), 1)
    assert (path.parent / "target").read_bytes() == states[1]
    backup.scrub("all")
    backup.status()
    assert capsys.readouterr().out.count(history[0].uuid) == 1
    for wrong in (3, "528f6c52", "tag:x"):
        with pytest.raises(KeyError):
            backup.find_revision(wrong)
    assert content(path) == before


def test_changes_of_an_archive_of_2014_are_refused(then: tuple[Path, list[bytes]]) -> None:
    path, _ = then
    before = content(path)
    backup = Backup(str(path))
    revision = backup.find_revision("last")
    calls: dict[str, Callable[[], Any]] = {
        "init": lambda: backup.init("/dev/null"),
        "backup": backup.backup,
        "maintenance": lambda: backup.maintenance(1),
        "mount": lambda: backup.mount("/mnt"),
        "remove": revision.remove,
    }
    for name, call in calls.items():
        with pytest.raises(backy.ArchiveUnsupportedError, match="backy -b NEW import") as caught:
            call()
        assert str(path) in str(caught.value), name
    assert content(path) == before


def test_damage_in_an_archive_of_then_is_found(then: tuple[Path, list[bytes]]) -> None:
    path, _ = then
    backup = Backup(str(path))
    newest = backup.find_revision("last")
    data = bytearray(Path(newest.filename).read_bytes())
    data[120] ^= 1
    Path(newest.filename).write_bytes(data)
    newest, older = backup.find_revision(0), backup.find_revision(1)
    assert newest.scrub(markbad=False) == [2]
    assert older.scrub() == []
    with pytest.raises(backy.ArchiveUnsupportedError, match="cannot be marked.*import"):
        newest.scrub()
    for each in (newest, older):
        with pytest.raises(backy.ArchiveDamagedError, match="block 2"):
            each.getChunk(2)
        with pytest.raises(backy.ArchiveDamagedError, match="block 2"):
            each.restore(str(path.parent / "target"))
    assert not (path.parent / "target").exists()


def test_a_file_of_then_that_cannot_be_used_is_named(then: tuple[Path, list[bytes]]) -> None:
    path, _ = then
    oldest = Backup(str(path)).revision_history[0]
    Path(oldest.info_filename).write_text("{")
    with pytest.warns(RuntimeWarning, match=oldest.uuid):
        assert len(Backup(str(path)).revisions) == 2


def test_mount_lasts_until_somebody_unmounts(archive: tuple[Path, list[bytes]], tmp_path: Path) -> None:
    path, states = archive
    if not can_mount():
        skip("to mount it takes root, /dev/fuse, loop devices and mke2fs")
    place = tmp_path / "mnt"
    place.mkdir()
    backup = Backup(str(path))
    newest = place / backup.find_revision("last").uuid
    mounting = threading.Thread(target=backup.mount, args=(str(place),))
    mounting.start()
    try:
        deadline = time.monotonic() + 20
        while not newest.exists() and mounting.is_alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert newest.read_bytes() == states[2]
        assert mounting.is_alive()
    finally:
        subprocess.run(["umount", place], check=True)
        mounting.join(20)
    assert not mounting.is_alive()


def test_timestamps_are_local_time() -> None:
    assert re.fullmatch(r"2014-03-31 \d\d:\d\d:03", format_timestamp(1396272483.524233))
