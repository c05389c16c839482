"""doc/python.md: its recipes run as they stand there but for paths and addresses; its tables have every name."""

import inspect
import json
import os
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import backy
from conftest import CHECKOUT, can_mount, skip

DOCUMENT = (CHECKOUT / "doc/python.md").read_text()
SECTOR = 512


def recipe(heading: str, *changes: tuple[str, str]) -> str:
    """The program below a heading, with what a test has elsewhere; each change has to be needed."""
    _, below = DOCUMENT.split(f"\n### {heading}\n", 1)
    program = re.split(r"\n##", below)[0].split("```python recipe\n", 1)[1].split("```", 1)[0]
    for here, there in changes:
        assert here in program, here
        program = program.replace(here, there)
    return program


def run(program: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", "-c", program]
    full = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=full, capture_output=True, text=True, timeout=120, check=False)


def disk(size_bytes: int, partition: int = 2048, sectors: int = 16384) -> bytearray:
    """A disk with an MBR that has one partition."""
    content = bytearray(size_bytes)
    entry = bytes([0, 0, 0, 0, 0x83, 0, 0, 0]) + partition.to_bytes(4, "little") + sectors.to_bytes(4, "little")
    content[446:462] = entry
    content[510:512] = b"\x55\xaa"
    return content


def make(folder: Path, *states: bytes) -> backy.Archive:
    """An archive with a revision of each state."""
    folder.mkdir(parents=True)
    source = folder / "source.img"
    source.touch()
    archive = backy.Archive.init(folder / "mynode", source)
    for state in states:
        source.write_bytes(state)
        archive.backup(force=True)
    return archive


class Mails(socketserver.StreamRequestHandler):
    """As much of SMTP as it takes to be given a mail."""

    received: list[str]

    def handle(self) -> None:
        self.wfile.write(b"220 test\r\n")
        for line in self.rfile:
            word = line.split()[0].upper().decode()
            if word == "DATA":
                self.wfile.write(b"354 go on\r\n")
                mail = []
                for text in self.rfile:
                    if text == b".\r\n":
                        break
                    mail.append(text.decode().rstrip("\r\n"))
                self.received.append("\n".join(mail))
            self.wfile.write(b"221 bye\r\n" if word == "QUIT" else b"250 ok\r\n")
            if word == "QUIT":
                return


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def mails() -> Iterator[tuple[int, list[str]]]:
    """The port of a mail server, and what it is given."""
    received: list[str] = []
    handler = type("Handler", (Mails,), {"received": received})
    with serving(socketserver.TCPServer(("127.0.0.1", 0), handler)) as port:
        yield port, received


def test_the_nightly_job_mails_how_the_archives_are(tmp_path: Path, mails: tuple[int, list[str]]) -> None:
    """An archive that cannot be backed up is named in the mail, and does not keep the next from being backed up."""
    port, received = mails
    base = tmp_path / "backup"
    base.mkdir()
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode() * 50_000)
        backy.Archive.init(base / name, tmp_path / name)
    program = recipe(
        "A nightly job with a report by mail",
        ("/srv/backup", str(base)),
        ('"localhost", 25', f'"127.0.0.1", {port}'),
    )
    done = run(program, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [len(backy.Archive(base / name).revisions) for name in ("one", "two")] == [1, 1]
    assert "Subject: backups: all 2 are healthy" in received[0]
    assert re.search(r"^one: .*\ntwo: ", received[0], re.MULTILINE)

    for name in ("one", "two"):
        config = base / name / "backy.toml"
        # Due each time.
        config.write_text(re.sub(r"(?ms)^\[schedule.*", "", config.read_text()))
    (tmp_path / "one").unlink()
    done = run(program, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Subject: backups: 1 of 2 need attention" in received[1]
    assert re.search(rf"^one: FAILED: .*{tmp_path / 'one'}", received[1].replace("=\n", ""), re.MULTILINE)
    assert [len(backy.Archive(base / name).revisions) for name in ("one", "two")] == [1, 2]


def test_what_is_due_is_run_and_failures_are_mailed(tmp_path: Path, mails: tuple[int, list[str]]) -> None:
    """No mail if all is well; otherwise one that names the archive."""
    port, received = mails
    (tmp_path / "one").write_bytes(b"one" * 50_000)
    archive = backy.Archive.init(tmp_path / "backup" / "one", tmp_path / "one")
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(f'archives = ["{tmp_path}/backup"]\n')
    program = recipe(
        "Run what is due, and mail the failures",
        ("/etc/backy/fleet.toml", str(fleet)),
        ('"localhost", 25', f'"127.0.0.1", {port}'),
    )
    done = run(program, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (len(archive.revisions), received) == (1, [])

    (archive.path / "backy.toml").write_text("nonsense\n")
    done = run(program, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Subject: backups: 1 need attention" in received[0]
    assert str(archive.path) in received[0].replace("=\n", "")


@pytest.mark.damages
def test_archives_are_copied_to_a_disk_in_a_drawer(tmp_path: Path) -> None:
    """Nothing happens without the disk; later copies add what is new, and name an archive whose source has damage."""
    origins, disk = tmp_path / "backup", tmp_path / "drawer"
    disk.mkdir()
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode() * 50_000)
        backy.Archive.init(origins / name, tmp_path / name).backup()
    heading = "Copy to a disk that is kept in a drawer"
    places = (("/srv/backup", str(origins)), ("/mnt/drawer", str(disk)))
    program = recipe(heading, *places)
    done = run(program, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(disk.iterdir()) == []

    program = recipe(heading, *places, ("disk.is_mount()", "disk.is_dir()"))
    for count in (1, 2):
        done = run(program, tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        for name in ("one", "two"):
            origin = backy.Archive(origins / name)
            assert backy.Archive(disk / name).revisions == origin.revisions
            assert len(origin.revisions) == count
            origin.backup(force=True)

    # A block that the disk does not have yet.
    (tmp_path / "one").write_bytes(b"new" * 50_000)
    backy.Archive(origins / "one").backup(force=True)
    with (origins / "one" / "last.raw").open("r+b") as image:
        image.seek(70_000)
        image.write(b"rotten")
    lost = backy.Archive(origins / "one").revisions[0].uuid
    (origins / "two" / "manifest.json").write_text("{")
    done = run(program, tmp_path)
    assert done.returncode == 1
    first, *_, last = done.stderr.splitlines()
    assert first == f"one: {lost} has lost blocks"
    assert last.startswith(f"two: {origins}/two/manifest.json")


def test_the_mbr_of_every_revision_is_verified(tmp_path: Path) -> None:
    """No complaint about good ones; a lost signature and a changed partition table are named with their revisions."""
    good, other, lost = disk(1 << 20), disk(1 << 20, partition=4096), disk(1 << 20)
    lost[0:512] = bytes(512)
    archive = make(tmp_path / "good", bytes(good), bytes(good))
    program = recipe("Verify the MBR of every revision", ("/srv/backup/mynode", str(archive.path)))
    done = run(program, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    archive = make(tmp_path / "bad", bytes(good), bytes(other), bytes(other), bytes(lost))
    program = recipe("Verify the MBR of every revision", ("/srv/backup/mynode", str(archive.path)))
    done = run(program, tmp_path)
    assert done.returncode == 1
    newest, _, changed, _ = archive.revisions
    first, second = done.stderr.splitlines()
    assert first.startswith(changed.uuid)
    assert first.endswith("another partition table than before")
    assert second.startswith(newest.uuid)
    assert second.endswith("no boot signature")


def test_a_file_is_copied_out_of_a_mounted_revision(tmp_path: Path) -> None:
    """The file is copied, and nothing is left mounted."""
    if not can_mount():
        skip("to mount it takes root, /dev/fuse, loop devices and mke2fs")
    tree, partition = tmp_path / "tree", tmp_path / "partition"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/fstab").write_text("/dev/sda1 / ext4\n")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, partition, "8M"], check=True)
    content = disk(12 << 20)
    content[2048 * SECTOR : 2048 * SECTOR + (8 << 20)] = partition.read_bytes()
    archive = make(tmp_path / "backup", bytes(content))
    places = (tmp_path / "mnt-backup", tmp_path / "mnt-disk")
    for place in places:
        place.mkdir()
    program = recipe(
        "Mount a revision and copy one file",
        ("/srv/backup/mynode", str(archive.path)),
        ("/mnt/backup", str(places[0])),
        ("/mnt/disk", str(places[1])),
    )
    done = run(program, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "fstab").read_text() == "/dev/sda1 / ext4\n"
    assert not any(os.path.ismount(place) for place in places)


def test_status_is_fed_to_a_dashboard(tmp_path: Path) -> None:
    """The dashboard gets the status as JSON."""
    archive = make(tmp_path / "backup", bytes(100_000))
    received: list[Any] = []

    class Dashboard(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving(HTTPServer(("127.0.0.1", 0), Dashboard)) as port:
        program = recipe(
            "Feed `status` to a dashboard",
            ("/srv/backup/mynode", str(archive.path)),
            ("https://dashboard.example.org", f"http://127.0.0.1:{port}"),
        )
        done = run(program, tmp_path, no_proxy="*")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (where, kind, body), *others = received
    assert (where, kind, others) == ("/backups/mynode", "application/json", [])
    expected = archive.status().to_dict()
    # Its words tell how long ago things were.
    assert body.pop("health")["level"] == expected.pop("health")["level"]
    assert body.pop("space").keys() == expected.pop("space").keys()
    assert body.pop("checked") <= expected.pop("checked")
    assert body == expected


LVM = """#!/bin/sh
# Plays LVM: a snapshot is a copy.
cd "{vg0}" || exit 9
echo "$(basename "$0") $*" >> log
case "$(basename "$0") $*" in
"lvcreate --snapshot --size 5G --name mynode-backup vg0/mynode") cp mynode mynode-backup && echo made ;;
"lvremove --yes vg0/mynode-backup") rm mynode-backup && echo removed ;;
*) exit 8 ;;
esac
"""


@pytest.mark.damages
def test_an_lvm_snapshot_is_backed_up_and_removed(tmp_path: Path) -> None:
    """The snapshot is what is backed up, and it is removed, also when the backup fails."""
    group, commands = tmp_path / "vg0", tmp_path / "bin"
    group.mkdir()
    commands.mkdir()
    for name in ("lvcreate", "lvremove"):
        (commands / name).write_text(LVM.format(vg0=group))
        (commands / name).chmod(0o755)
    (group / "mynode").write_bytes(b"volume" * 20_000)
    archive = backy.Archive.init(tmp_path / "archive", group / "mynode")
    program = recipe(
        "Back up an LVM snapshot",
        ("/srv/backup/mynode", str(archive.path)),
        ("/dev/{group}", f"{tmp_path}/{{group}}"),
    )
    search = f"{commands}:{os.environ['PATH']}"
    done = run(program, tmp_path, PATH=search)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with archive.open() as image:
        assert image.read() == b"volume" * 20_000
    last = archive.status().last_source
    assert last is not None
    assert last.path == str(group / "mynode-backup")
    assert not (group / "mynode-backup").exists()

    (archive.path / "manifest.json").write_text("{")
    opening = f'archive = backy.Archive("{archive.path}")\n'
    program = program.replace(opening, "", 1).replace("    archive.backup", f"    {opening}    archive.backup")
    done = run(program, tmp_path, PATH=search)
    assert done.returncode == 1
    assert "ArchiveDamagedError" in done.stderr
    assert not (group / "mynode-backup").exists()
    assert [line.split()[0] for line in (group / "log").read_text().splitlines()] == ["lvcreate", "lvremove"] * 2


RADOS = """
class Pool:
    def get_pool_id(self):
        return 7

class Rados:
    def __init__(self, conffile):
        self.conffile = conffile
    def connect(self):
        pass
    def get_fsid(self):
        return "0190a000"
    def open_ioctx(self, pool):
        return Pool()
"""

# As much of the module as the recipe uses; images and snapshots are files.
RBD = """
import json
from pathlib import Path

class Image:
    def __init__(self, pool, name):
        self.folder = Path("cluster")
        self.at = None
    def id(self):
        return "abc"
    def size(self):
        return len(self.bytes(None))
    def bytes(self, snapshot):
        return (self.folder / (f"{snapshot}.snap" if snapshot else "image")).read_bytes()
    def known(self):
        return json.loads((self.folder / "snapshots").read_text())
    def list_snaps(self):
        return ({"name": name, "id": number} for name, number in self.known().items())
    def create_snap(self, name):
        known = self.known()
        (self.folder / f"{name}.snap").write_bytes(self.bytes(None))
        known[name] = json.loads((self.folder / "count").read_text())
        (self.folder / "count").write_text(str(known[name] + 1))
        (self.folder / "snapshots").write_text(json.dumps(known))
    def remove_snap(self, name):
        assert name != self.at
        known = self.known()
        del known[name]
        (self.folder / f"{name}.snap").unlink()
        (self.folder / "snapshots").write_text(json.dumps(known))
    def set_snap(self, name):
        self.at = name
    def read(self, offset, length):
        with (self.folder / "log").open("a") as log:
            log.write(f"{length}\\n")
        return self.bytes(self.at)[offset : offset + length]
    def diff_iterate(self, offset, length, from_snapshot, iterate_cb):
        new = self.bytes(self.at)
        old = self.bytes(from_snapshot) if from_snapshot else bytes(len(new))
        for at in range(0, len(new), 4096):
            part = new[at : at + 4096]
            if part != old[at : at + 4096]:
                iterate_cb(at, len(part), any(part))
"""


def test_an_image_of_ceph(tmp_path: Path) -> None:
    """Reads what has changed, keeps one snapshot, and does not believe one that was made again under its name."""
    cluster = tmp_path / "cluster"
    cluster.mkdir()
    (tmp_path / "rados.py").write_text(RADOS)
    (tmp_path / "rbd.py").write_text(RBD)
    (cluster / "snapshots").write_text(json.dumps({"daily": 1}))
    (cluster / "daily.snap").touch()
    (cluster / "count").write_text("5")
    archive = backy.Archive.init(tmp_path / "archive")
    program = recipe("Back up an image of Ceph by what has changed", ("/srv/backup/mynode", str(archive.path)))
    program = program.replace("archive.backup(", "archive.backup(force=True, ")
    image = bytearray(2_000_000)
    image[300_000:900_000] = b"x" * 600_000

    def back_up() -> int:
        (cluster / "log").unlink(missing_ok=True)
        (cluster / "image").write_bytes(image)
        done = run(program, tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        with archive.open() as revision:
            assert revision.read() == image
        names = sorted(json.loads((cluster / "snapshots").read_text()))
        assert names == [f"backy.{archive.revisions[0].uuid}", "daily"]
        return sum(int(line) for line in (cluster / "log").read_text().splitlines())

    assert 600_000 <= back_up() < 900_000
    image[400_000:400_100] = b"y" * 100
    image[600_000:800_000] = bytes(200_000)
    assert back_up() <= 262_144
    hints = archive.revisions[0].hints
    assert hints is not None
    assert hints.since == archive.revisions[1].uuid
    known = json.loads((cluster / "snapshots").read_text())
    known[f"backy.{archive.revisions[0].uuid}"] = 99
    (cluster / "snapshots").write_text(json.dumps(known))
    assert back_up() > 300_000
    hints = archive.revisions[0].hints
    assert hints is not None
    assert hints.since is None


def test_every_recipe_has_a_test() -> None:
    parts = DOCUMENT.split("\n### ")[1:]
    headings = [part.splitlines()[0] for part in parts if "```python recipe" in part]
    assert len(headings) == 8
    assert len(headings) == DOCUMENT.count("```python recipe")
    text = Path(__file__).read_text()
    for heading in headings:
        assert f'"{heading}"' in text, heading


def rows(heading: str) -> dict[str, str]:
    """The table below a heading: what stands in code in its first column, and its second."""
    _, below = DOCUMENT.split(f"\n## {heading}\n", 1)
    found = {}
    for line in below.split("\n## ", 1)[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `"):
            for name in re.findall(r"`([^`]+)`", cells[0]):
                assert name not in found, name
                found[name] = cells[1]
    return found


def public(thing: object) -> set[str]:
    return {name for name in vars(thing) if not name.startswith("_")}


def test_the_table_of_the_archive_has_all_it_can_do() -> None:
    """Each name is there, with the parameters that it has."""
    table = rows("Archive")
    documented = {}
    for entry in table:
        name, _, parameters = entry.partition("(")
        words = [each.partition("=")[0].strip() for each in parameters.removesuffix(")").split(",")]
        documented[name] = [each for each in words if each not in ("", "*")]
    assert set(documented) == public(backy.Archive) | {"Archive"}
    for name, expected in documented.items():
        member = backy.Archive if name == "Archive" else inspect.getattr_static(backy.Archive, name)
        if inspect.isgetsetdescriptor(member):
            assert not expected, name
            continue
        if name == "Archive" and sys.version_info < (3, 10):
            # Which does not find out what such a class is called with.
            continue
        signature = inspect.signature(getattr(backy.Archive, name) if name != "Archive" else backy.Archive)
        assert expected == [each for each in signature.parameters if each != "self"], name


def test_the_table_of_the_module_has_every_name() -> None:
    assert set(rows("The module")) == set(backy.__all__)


def test_the_table_of_2014_has_every_name_of_then() -> None:
    import backy.backup
    import backy.revision

    then = {f"backy.backup.{name}" for name in backy.backup.__all__}
    then |= {f"backy.revision.{name}" for name in backy.revision.__all__}
    then |= {f"Backup.{name}" for name in public(backy.backup.Backup)}
    then |= {f"Revision.{name}" for name in public(backy.revision.Revision)}
    # Of every revision, which are made with it.
    then |= {"Revision.type"}
    assert set(rows("Scripts of 2014")) == then
