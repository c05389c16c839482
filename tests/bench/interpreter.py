"""Measure backups through the Python module against those of the command, and what importing the module takes."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path

BACKUP = "import sys, backy; backy.Archive(sys.argv[1]).backup(force=True)"
READ = """
import sys, backy
buffer = bytearray(1 << 20)
with backy.Archive(sys.argv[1]).open() as image:
    while image.readinto(buffer):
        pass
"""
IMPORT = "import time; begin = time.perf_counter(); import backy; print(time.perf_counter() - begin)"
IMPORTS = 20

OVERHEAD_TARGET = 1.03
READ_TARGET = 0.8
IMPORT_TARGET_MS = 50


def measure_python(python: Path, backy: Path, archive: Path, runs: int, seconds: Callable[[list[str]], float]) -> str:
    """Backs up an unchanged source by turns; `seconds` runs a command. What came out, as lines of Markdown."""
    by_command = [str(backy), "-b", str(archive), "backup", "--force"]
    by_module = [str(python), "-c", BACKUP, str(archive)]
    seconds(by_command)
    ratios = [seconds(by_module) / seconds(by_command) for _ in range(runs)]
    imports = [
        float(subprocess.run([python, "-c", IMPORT], check=True, capture_output=True).stdout) for _ in range(IMPORTS)
    ]
    by_library = [str(backy.with_name("read-revision")), str(archive)]
    reads = [seconds(by_library) / seconds([str(python), "-c", READ, str(archive)]) for _ in range(runs)]
    ratio, import_ms = statistics.median(ratios), statistics.median(imports) * 1000
    return "\n".join(
        [
            f"- unchanged backup, Python module to command: {ratio:.3f} ({min(ratios):.3f}–{max(ratios):.3f}, "
            f"target ≤ {OVERHEAD_TARGET})",
            f"- rate of a revision read by the module, to that by the library: {statistics.median(reads):.2f} "
            f"({min(reads):.2f}–{max(reads):.2f}, target ≥ {READ_TARGET})",
            f"- import backy: {import_ms:.1f} ms (target ≤ {IMPORT_TARGET_MS})",
        ]
    )
