"""An archive with very many small revisions, against one with a single one."""

from __future__ import annotations

import random
import shutil
import sys

from measure import MIB, Results, measure, median, must_equal, quiet, remove
from noise import BLOCK, change_blocks, write_noise
from places import Bench
from table import mark, peak_note, table

IMAGE_BYTES = 256 * MIB
CHANGED_BYTES = MIB
# With many revisions: more milliseconds for status, and restore of the oldest to that of the newest.
STATUS_TARGET_MS = 50
RESTORE_TARGET = 1.5


def run_many(bench: Bench) -> str:
    many = Many(bench)
    many.prepare()
    for run in range(bench.options.runs):
        many.one_run(run)
    return "\n\n".join([table(bench.results, {}, bench.floor_bytes()), peak_note(bench.results), note(bench.results)])


class Many:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.image = bench.scratch / "image"
        self.first = bench.scratch / "first"
        self.kept = bench.scratch / "archive"

    def prepare(self) -> None:
        bench = self.bench
        bench.begin_scratch()
        bench.begin()
        generator = random.Random(2)
        write_noise(self.image, IMAGE_BYTES, generator)
        shutil.copyfile(self.image, self.first)
        bench.point_source_at(self.image)
        bench.new_archive()
        bench.configure()
        print(f"making {bench.options.revisions} revisions", file=sys.stderr)
        quiet(*bench.backy("backup"))
        bench.add("status of 1", measure(0, bench.backy("status")))
        bench.add("backup to 1", measure(0, bench.backy("backup")))
        for _ in range(bench.options.revisions - 2):
            change_blocks(self.image, CHANGED_BYTES // BLOCK, generator)
            quiet(*bench.backy("backup"))
        bench.archive.rename(self.kept)

    def one_run(self, run: int) -> None:
        bench = self.bench
        bench.begin()
        quiet("cp", "-a", "--sparse=always", self.kept, bench.archive)
        bench.point_source_at(self.image)
        bench.add("status", measure(run, bench.backy("status")))
        bench.add("backup", measure(run, bench.backy("backup")))
        for name, revision, image in (("newest", "latest", self.image), ("oldest", "first", self.first)):
            bench.add(f"restore-{name}", measure(run, bench.backy("restore", "-r", revision, bench.target)))
            must_equal(bench.target, image, f"restore of the {name} of many")
            remove(bench.target)
        bench.add("scrub", measure(run, bench.backy("scrub")))
        # A hundred neighbours in one pass.
        bench.add("rm of 100", measure(run, bench.backy("rm", "100..199")))
        bench.add("maintenance", measure(run, bench.backy("maintenance", "--keep", "100")))


def note(results: Results) -> str:
    def wall(name: str) -> float:
        return median(sample.wall_seconds for sample in results.samples[name])

    more_ms = (wall("status") - wall("status of 1")) * 1000
    oldest = wall("restore-oldest") / wall("restore-newest")
    return (
        f"Many revisions: status takes {more_ms:.0f} ms more than with one, "
        f"target ≤ {STATUS_TARGET_MS}{mark(more_ms <= STATUS_TARGET_MS)}; the oldest is restored in "
        f"{oldest:.2f} times the time of the newest, target ≤ {RESTORE_TARGET}{mark(oldest <= RESTORE_TARGET)}."
    )
