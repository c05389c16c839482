"""The command that comes with the module."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Made, can_mount, skip

SCRIPT = Path(sys.executable).parent / "backy"


@pytest.mark.parametrize("command", [[str(SCRIPT)], [sys.executable, "-m", "backy"]])
def test_it_is_the_command(made: Made, backy_bin: Path, command: list[str]) -> None:
    """Same output, errors and exit status as the binary."""
    lines = ("maintenance -n", "find -r 1", "find -r 99", "--help", "nonsense", "--version")
    for arguments in (line.split() for line in lines):
        given = ["-b", str(made.path), *arguments]
        ours = subprocess.run([*command, *given], capture_output=True, stdin=subprocess.DEVNULL, check=False)
        theirs = subprocess.run([backy_bin, *given], capture_output=True, stdin=subprocess.DEVNULL, check=False)
        assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)


def test_ctrl_c_ends_it_with_130(large: Made) -> None:
    """As it ends the binary, with no traceback."""
    command = [str(SCRIPT), "-b", str(large.path), "backup", "--force", "--limit-rate", "1M", "-v"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait() == 130
    assert "Traceback" not in said
    assert "interrupted" in said


def test_it_mounts_in_the_background(made: Made, tmp_path: Path) -> None:
    """Which starts the interpreter once more."""
    if not can_mount():
        skip("mounting needs root, FUSE and loop devices")
    place = tmp_path / "mnt"
    place.mkdir()
    subprocess.run([SCRIPT, "-b", made.path, "mount", place], check=True)
    try:
        assert (place / "latest").read_bytes() == made.sources[0]
    finally:
        subprocess.run(["umount", place], check=True)
