"""A second copy: what a pull takes, what it sends, and what rsync and restic take for the same day."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from measure import MIB, Sample, measure, median, quiet, remove
from peers import Restic
from places import HERE, Bench
from stored import compressed_changes
from table import PEAK_TARGET_MIB, mark, table

# Bytes on the wire: so many times the changed blocks, each compressed, and this part of the image.
WIRE_TARGET = 1.05
WIRE_IMAGE_PART = 1000
# A pull over a local pipe, to a backup of the same day.
PULL_TARGET = 0.5
# A line of this rate with 20 ms there and back, and how much of it is used.
LINE_MBIT = 1000
DELAY_MS = 10
LINE_TARGET = 0.8


def run_copy(bench: Bench) -> str:
    return SecondCopy(bench).run()


class SecondCopy:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.copy = bench.work / "copy"
        self.slow = bench.work / "slow"
        self.mirror = bench.work / "mirror"
        self.log = bench.work / "link.json"
        self.wire_bytes: list[int] = []
        self.line_used: list[float] = []
        self.peaks: list[int] = []

    def run(self) -> str:
        for run in range(self.bench.options.runs):
            self.one_run(run)
        # The blocks of the newer day, which are what goes over the line.
        changed = compressed_changes(self.bench.day(1), self.bench.day(0))
        self.bench.results.figures |= {
            "wire_bytes": self.wire_bytes, "changed_compressed_bytes": changed, "line_used": self.line_used,
        }  # fmt: skip
        return "\n\n".join([table(self.bench.results, {}, self.bench.floor_bytes()), self.note(changed)])

    def one_run(self, run: int) -> None:
        bench, backy = self.bench, self.bench.options.backy
        bench.begin()
        bench.point_source_at(bench.day(0))
        bench.new_archive()
        quiet(*bench.backy("backup", "--force"))
        self.first_over_a_line(run)
        self.add("first pull, local path", self.pull(run, self.copy))
        restic = Restic(bench) if Restic.found() else None
        second = bench.work / "restic-copy"
        if restic:
            restic.init()
            restic.backup(run, bench.day(0))
            self.prepare_restic(run, restic, second)
        if rsync := shutil.which("rsync"):
            quiet(rsync, "-aS", "--inplace", f"{bench.archive}/", self.mirror)
        bench.point_source_at(bench.day(1))
        bench.filler.fill()
        bench.add("backup of the day", measure(run, bench.backy("backup", "--force")))
        self.add("pull, local path", self.pull(run, self.copy))
        quiet(backy, "-b", self.copy, "rm", "0")
        self.add("pull, local pipe", self.pull(run, self.copy, "--ssh", str(HERE / "pipe")))
        quiet(backy, "-b", self.copy, "rm", "0")
        self.add("pull, bytes counted", self.pull(run, self.copy, "--ssh", self.link()))
        self.take_log()
        if rsync:
            bench.filler.fill()
            sample = measure(run, [rsync, "-aS", "--inplace", f"{bench.archive}/", self.mirror])
            bench.add("rsync -aS --inplace", sample)
        if restic:
            restic.backup(run, bench.day(1))
            bench.add("restic copy", self.restic_copy(run, restic, second))

    def first_over_a_line(self, run: int) -> None:
        sample = self.pull(run, self.slow, "--ssh", self.link("--delay-ms", DELAY_MS, "--mbit", LINE_MBIT))
        self.add("first pull, 1 Gbit/s, 20 ms", sample)
        figures = json.loads(self.log.read_text())
        seconds = figures["received_bytes"] * 8 / (LINE_MBIT * 1e6)
        self.line_used.append(seconds / sample.wall_seconds)
        self.peaks.append(figures["peak_bytes"])
        remove(self.slow)

    def take_log(self) -> None:
        figures = json.loads(self.log.read_text())
        self.wire_bytes.append(figures["sent_bytes"] + figures["received_bytes"])
        self.peaks.append(figures["peak_bytes"])

    def add(self, name: str, sample: Sample) -> None:
        self.peaks.append(sample.peak_bytes)
        self.bench.add(name, sample)

    def pull(self, run: int, copy: Path, *options: str) -> Sample:
        origin = f"ssh://here{self.bench.archive}" if options else self.bench.archive
        self.bench.filler.fill()
        return measure(run, [self.bench.options.backy, "-b", copy, "pull", origin, *options], self.env())

    def env(self) -> dict[str, str]:
        """The far side calls `backy`: the one that is measured."""
        return {**os.environ, "PATH": f"{self.bench.options.backy.resolve().parent}:{os.environ['PATH']}"}

    def link(self, *options: object) -> str:
        parts = [sys.executable, HERE / "link.py", "--log", self.log, *options]
        return " ".join(str(part) for part in parts)

    def prepare_restic(self, run: int, restic: Restic, second: Path) -> None:
        env = self.restic_env(restic, second)
        quiet(str(restic.found()), "init", "--copy-chunker-params", env=env)
        self.restic_copy(run, restic, second)

    def restic_env(self, restic: Restic, second: Path) -> dict[str, str]:
        return {
            **restic.env, "RESTIC_REPOSITORY": str(second), "RESTIC_FROM_REPOSITORY": str(restic.store),
            "RESTIC_FROM_PASSWORD": restic.env["RESTIC_PASSWORD"],
        }  # fmt: skip

    def restic_copy(self, run: int, restic: Restic, second: Path) -> Sample:
        self.bench.filler.fill()
        return measure(run, [str(restic.found()), "--quiet", "copy"], self.restic_env(restic, second))

    def note(self, changed_bytes: int) -> str:
        samples = self.bench.results.samples
        image_bytes = self.bench.day(1).stat().st_size
        limit = WIRE_TARGET * changed_bytes + image_bytes / WIRE_IMAGE_PART
        wire = median(self.wire_bytes)
        pairs = zip(samples["pull, local pipe"], samples["backup of the day"], strict=True)
        ratio = median(pull.wall_seconds / backup.wall_seconds for pull, backup in pairs)
        used, peak = median(self.line_used), max(self.peaks) / MIB
        return (
            f"On the wire: {wire / MIB:.1f} MiB for changed blocks of {changed_bytes / MIB:.1f} MiB compressed, target "
            f"≤ {limit / MIB:.1f}{mark(wire <= limit)}. A pull over a local pipe takes {ratio:.2f} of a backup of "
            f"the same day, target ≤ {PULL_TARGET}{mark(ratio <= PULL_TARGET)}. A first pull uses {used:.0%} of a line "
            f"of 1 Gbit/s with 20 ms there and back, target ≥ {LINE_TARGET:.0%}{mark(used >= LINE_TARGET)}. Peak "
            f"memory of either side: {peak:.0f} MiB, target ≤ {PEAK_TARGET_MIB}{mark(peak <= PEAK_TARGET_MIB)}."
        )
