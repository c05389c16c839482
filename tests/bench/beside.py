"""Programs that run beside what is measured: the bench starts them and ends them on every path."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PATIENCE_SECONDS = 120


class Skipped(Exception):
    """Why something cannot be measured on this machine."""


def require(programs: Mapping[str, str]) -> None:
    """That programs are here; the values are Debian's packages."""
    for program, package in programs.items():
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            raise Skipped(f"{program} is not installed (package {package})")


@contextmanager
def running(*command: str | Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program until the end of the block; if the bench is killed, the kernel ends it."""
    arguments = ["setpriv", "--pdeathsig", "KILL", *(str(part) for part in command)]
    with log.open("ab") as said:
        # In a session of its own, as Ctrl-C is for the bench, which ends it when it is not needed any more.
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(what: str, holds: Callable[[], bool], log: Path | None = None) -> None:
    """Waits for something that takes seconds at most, unless the machine has much else to do."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > end:
            said = log.read_text(errors="replace")[-2000:] if log else ""
            raise SystemExit(f"bench: not within {PATIENCE_SECONDS} s: {what}\n{said}")
        time.sleep(0.1)


def answers(*command: str | Path, env: Mapping[str, str] | None = None) -> bool:
    """Whether a command succeeds."""
    arguments = [str(part) for part in command]
    silent = subprocess.DEVNULL
    return subprocess.run(arguments, stdout=silent, stderr=silent, env=env, check=False).returncode == 0


def asked(*command: str | Path, env: Mapping[str, str] | None = None, stdin: str = "") -> str:
    """What a command prints; it must succeed."""
    arguments = [str(part) for part in command]
    return subprocess.run(arguments, input=stdin, stdout=subprocess.PIPE, env=env, check=True, text=True).stdout


def cpu_seconds(processes: Iterable[int]) -> float:
    """What processes have used until now."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
