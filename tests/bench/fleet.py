"""Many archives: a run in which nothing is due, one in which all are, and the verdict on all of them."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from measure import MIB, measure, median, quiet, remove
from noise import write_noise
from places import Bench
from table import PEAK_TARGET_MIB, mark, table

IMAGE_BYTES = 64 * MIB
# A run in which nothing is due, and a check of a thousand archives: seconds.
IDLE_TARGET_SECONDS = 1.0
CHECK_TARGET_SECONDS = 3.0
CHECKED = 1000
# The rate of a run in which all are due to that of one backup of the same data.
RATE_TARGET = 0.9
DAILY = '[schedule.daily]\ninterval = "1d"\nkeep = 3\n'


def run_fleet(bench: Bench) -> str:
    fleet = Fleet(bench)
    fleet.prepare()
    for run in range(bench.options.runs):
        fleet.one_run(run)
    return "\n\n".join([table(bench.results, {}, bench.floor_bytes()), fleet.note()])


class Fleet:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.count: int = bench.options.archives
        self.image = bench.scratch / "image"
        self.whole = bench.scratch / "whole"
        self.small = bench.scratch / "small"
        self.all = bench.work / "all"

    def prepare(self) -> None:
        """One image for all archives, the same as often as there are archives, and a thousand small archives."""
        self.bench.begin_scratch()
        self.bench.begin()
        generator = random.Random(4)
        write_noise(self.image, IMAGE_BYTES, generator)
        with open(self.whole, "wb") as whole:
            for _ in range(self.count):
                with open(self.image, "rb") as image:
                    shutil.copyfileobj(image, whole, MIB)
        self.small.mkdir()
        write_noise(self.bench.scratch / "tiny", MIB, generator)
        for number in range(CHECKED):
            self.make(self.small / f"vm{number}", self.bench.scratch / "tiny")
        quiet(self.bench.options.backy, "run", self.small)

    def make(self, folder: Path, source: Path) -> None:
        quiet(self.bench.options.backy, "-b", folder, "init", source)
        (folder / "backy.toml").write_text(f'source = "{source}"\n{DAILY}')

    def one_run(self, run: int) -> None:
        bench, program = self.bench, self.bench.options.backy
        bench.begin()
        bench.point_source_at(self.whole)
        bench.new_archive()
        bench.filler.fill()
        bench.add("one backup of all data", measure(run, bench.backy("backup")))
        remove(bench.archive)
        for number in range(self.count):
            self.make(self.all / f"vm{number}", self.image)
        bench.filler.fill()
        bench.add("run, all due", measure(run, [program, "run", self.all]))
        bench.add("run, nothing due", measure(run, [program, "run", self.all]))
        bench.add(f"check of {CHECKED}", measure(run, [program, "check", self.small]))

    def note(self) -> str:
        samples = self.bench.results.samples

        def wall(name: str) -> float:
            return median(sample.wall_seconds for sample in samples[name])

        pairs = zip(samples["one backup of all data"], samples["run, all due"], strict=True)
        rate = median(one.wall_seconds / many.wall_seconds for one, many in pairs)
        idle, check = wall("run, nothing due"), wall(f"check of {CHECKED}")
        peak = max(sample.peak_bytes for sample in samples["run, nothing due"]) / MIB
        return (
            f"{self.count} archives of {IMAGE_BYTES // MIB} MiB: a run in which all are due has {rate:.2f} of the rate "
            f"of one backup of the same data, target ≥ {RATE_TARGET}{mark(rate >= RATE_TARGET)}; one in which nothing "
            f"is due takes {idle:.2f} s, target ≤ {IDLE_TARGET_SECONDS:.0f}{mark(idle <= IDLE_TARGET_SECONDS)}, and "
            f"{peak:.0f} MiB, target ≤ {PEAK_TARGET_MIB}{mark(peak <= PEAK_TARGET_MIB)}; a check of {CHECKED} takes "
            f"{check:.2f} s, target ≤ {CHECK_TARGET_SECONDS:.0f}{mark(check <= CHECK_TARGET_SECONDS)}."
        )
