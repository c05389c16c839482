"""Running a command and taking down what it cost. What is done with the figures is table.py's."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MIB = 1 << 20


@dataclass
class Sample:
    """One command, measured. What is None was not looked at."""

    run: int
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    written_bytes: int
    ratio: float | None = None
    # The day of the workload that was backed up.
    day: int | None = None
    # The archive or target afterwards, and by how much the archive has grown.
    stored_bytes: int | None = None
    grown_bytes: int | None = None
    # The delta that was made or, by a removal, merged.
    delta_bytes: int | None = None


@dataclass
class Results:
    """Samples by what was measured, in the order of the first run, and figures that are no samples."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    # By run, the seconds that the ratios are of.
    baselines: dict[int, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, sample: Sample) -> None:
        baseline = self.baselines.get(sample.run)
        sample.ratio = sample.wall_seconds / baseline if baseline else None
        self.samples.setdefault(name, []).append(sample)
        ratio = f"{sample.ratio:6.2f} x" if sample.ratio else ""
        peak = f"{sample.peak_bytes / MIB:6.0f} MiB"
        print(f"  run {sample.run + 1}  {name:<24} {sample.wall_seconds:8.3f} s  {peak} {ratio}", file=sys.stderr)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        samples = {name: [asdict(sample) for sample in samples] for name, samples in self.samples.items()}
        return {"samples": samples, **self.figures}


def measure(run: int, command: Sequence[str | Path], env: dict[str, str] | None = None) -> Sample:
    """Runs a command to its end; it must succeed."""
    arguments = [str(argument) for argument in command]
    begin = time.perf_counter()
    silent = subprocess.DEVNULL
    # In a session of its own, so that it can be ended with all that it has started.
    process = subprocess.Popen(arguments, stdout=silent, stdin=silent, env=env, start_new_session=True)
    # Popen.wait() would throw the resource usage away. What it wrote can be read while it has ended and not been
    # waited for.
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    except BaseException:
        end(process)
        raise
    wall_seconds = time.perf_counter() - begin
    written_bytes = written_by(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"bench: exit status {process.returncode} of: {' '.join(arguments)}")
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Sample(run, wall_seconds, cpu_seconds, usage.ru_maxrss * 1024, written_bytes)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a program that leads a session, and what it has started."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, ending)
        try:
            process.wait(10)
            return
        except subprocess.TimeoutExpired:
            continue


def written_by(process: int) -> int:
    """Bytes that a process has written by system calls."""
    fields = (line.split(": ") for line in Path(f"/proc/{process}/io").read_text().splitlines())
    return int(dict(fields)["wchar"])


def quiet(*command: str | Path, env: dict[str, str] | None = None) -> None:
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, env=env)


def must_equal(one: Path, other: Path, what: str) -> None:
    if subprocess.run(["cmp", "--", one, other], check=False).returncode != 0:
        sys.exit(f"bench: {what} gave wrong bytes")


def allocated_bytes(path: Path) -> int:
    """What a file, or a folder with all in it, takes on disk."""
    total = path.stat().st_blocks * 512
    if path.is_dir():
        total += sum(allocated_bytes(child) for child in path.iterdir())
    return total


def remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def median(values: Iterable[float]) -> float:
    return statistics.median(list(values))
