"""Measure backups through the Python module against those of the command, and what importing the module takes."""

from __future__ import annotations

import subprocess
from statistics import median

from measure import measure, quiet
from places import CHECKOUT, Bench

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


def run_python(bench: Bench) -> str:
    """Backs up an unchanged source by turns. What came out, as lines of Markdown."""
    python = CHECKOUT / ".venv/bin/python"
    if not python.exists():
        return "SKIPPED: python: make venv installs the module"
    bench.begin()
    bench.point_source_at(bench.day(0))
    bench.new_archive()
    quiet(*bench.backy("backup", "--force"))

    def seconds(*command: object) -> float:
        return measure(0, [str(part) for part in command]).wall_seconds

    runs, archive = bench.options.runs, bench.archive
    by_command = bench.backy("backup", "--force")
    seconds(*by_command)
    ratios = [seconds(python, "-c", BACKUP, archive) / seconds(*by_command) for _ in range(runs)]
    imports = [
        float(subprocess.run([python, "-c", IMPORT], check=True, capture_output=True).stdout) for _ in range(IMPORTS)
    ]
    by_library = bench.options.backy.with_name("read-revision")
    reads = [seconds(by_library, archive) / seconds(python, "-c", READ, archive) for _ in range(runs)]
    bench.results.figures |= {"backup_ratios": ratios, "read_ratios": reads, "import_seconds": imports}
    ratio, import_ms = median(ratios), median(imports) * 1000
    return "\n".join(
        [
            f"- unchanged backup, Python module to command: {ratio:.3f} ({min(ratios):.3f}–{max(ratios):.3f}, "
            f"target ≤ {OVERHEAD_TARGET})",
            f"- rate of a revision read by the module, to that by the library: {median(reads):.2f} "
            f"({min(reads):.2f}–{max(reads):.2f}, target ≥ {READ_TARGET})",
            f"- import backy: {import_ms:.1f} ms (target ≤ {IMPORT_TARGET_MS})",
        ]
    )
