"""Nothing is run that lies in the current folder, which may be anybody's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import backy
from conftest import Made, can_mount, skip

SCRIPT = Path(sys.executable).parent / "backy"

# What the module, the command and Python itself import; a process that is started looks for it anew.
MODULES = ("backy/__init__", "backy/__main__", "datetime", "json", "logging", "pathlib", "signal")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose modules leave a proof when they are imported."""
    folder = tmp_path / "anybody's"
    for module in MODULES:
        file = folder / f"{module}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"open({str(tmp_path / 'proof')!r}, 'a').write({module!r} + ' was imported')\n")
    return folder


@pytest.fixture
def hooked(tmp_path: Path) -> Path:
    """An archive with hooks, which are run by a process of their own."""
    source = tmp_path / "source"
    source.write_bytes(bytes(4096))
    archive = backy.Archive.init(tmp_path / "archive", source)
    with (archive.path / "backy.toml").open("a") as config:
        config.write('\n[hooks]\nbefore = "true"\nafter = "true"\n')
    return archive.path


def in_folder(folder: Path, *words: str | Path) -> None:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    proof = folder.parent / "proof"
    assert not proof.exists(), proof.read_text()


def test_the_process_that_runs_hooks(hooked: Path, folder: Path) -> None:
    """Of the command, and of a script whose own folder is another one."""
    in_folder(folder, SCRIPT, "-b", hooked, "backup", "--force")
    script = folder.parent / "script.py"
    script.write_text(f"import backy\nbacky.Archive({str(hooked)!r}).backup(force=True)\n")
    in_folder(folder, sys.executable, script)


def test_the_process_that_serves_a_mount(made: Made, folder: Path) -> None:
    """It is started by the command, and goes on in the background."""
    if not can_mount():
        skip("mounting needs root, FUSE and loop devices")
    place = folder.parent / "mnt"
    place.mkdir()
    in_folder(folder, SCRIPT, "-b", made.path, "mount", place)
    try:
        assert (place / "latest").read_bytes() == made.sources[0]
    finally:
        subprocess.run(["umount", place], check=True)
