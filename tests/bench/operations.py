"""backy's operations on a few days of one disk, in relation to `cp` of the same disk in the same run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from measure import allocated_bytes, measure, must_equal, quiet, remove
from peers import PEERS, one_peer_run
from places import DAYS, Bench
from stored import compressed_changes
from table import TARGETS, bytes_note, peak_note, removal_note, stored_table, table

BACKUPS = ("first", "unchanged", "day")
RESTORES = ("restore-newest", "restore-oldest", "restore-near")
KEEPING = ("scrub", "rm-oldest", "rm-middle")
OTHERS = ("plain-digest", "sha256sum", "qemu-img")
OPERATIONS = ("cp", *BACKUPS, *RESTORES, *KEEPING, *OTHERS)


def run_operations(bench: Bench) -> str:
    """All that is wanted of OPERATIONS, and the peers; needs the images."""
    operations = Operations(bench, bench.wanted)
    for run in range(bench.options.runs):
        operations.one_run(run)
        if "peers" in bench.wanted:
            for peer in PEERS:
                if peer.found() is not None:
                    one_peer_run(bench, run, peer(bench))
                elif run == 0:
                    print(f"SKIPPED: {peer.program}: it is not installed; see make bench-peers", file=sys.stderr)
    if operations.stored:
        bench.results.figures["bytes"] = {**operations.stored, "changed_compressed_bytes": changed_bytes(bench)}
    notes = [peak_note(bench.results), removal_note(bench.results), bytes_note(bench.results)]
    parts = [table(bench.results, TARGETS, bench.floor_bytes()), stored_table(bench.results, DAYS), *notes]
    return "\n\n".join(part for part in parts if part)


def changed_bytes(bench: Bench) -> int:
    """What the deltas of the days have to store: see stored.py."""
    return sum(compressed_changes(bench.day(day - 1), bench.day(day)) for day in range(1, DAYS + 1))


class Operations:
    """One run after the other; what is not wanted is done only where the rest needs it."""

    def __init__(self, bench: Bench, wanted: set[str]) -> None:
        self.bench = bench
        self.wanted = wanted
        # What the archive of the last run took after the last day, by kind of file.
        self.stored: dict[str, int] = {}

    def wants(self, *operations: str) -> bool:
        return not self.wanted.isdisjoint(operations)

    def settle(self) -> None:
        """Before each measured command."""
        self.bench.filler.fill()

    def copy(self) -> list[str | Path]:
        """The command that the others are set in relation to."""
        return ["cp", "--sparse=always", self.bench.day(0), self.bench.target]

    def measured(
        self,
        run: int,
        name: str,
        command: list[str | Path],
        stored: Path | None = None,
        day: int | None = None,
        delta_bytes: int | None = None,
    ) -> None:
        self.settle()
        sample = measure(run, command)
        sample.day, sample.delta_bytes = day, delta_bytes
        if name == "cp":
            self.bench.results.baselines[run] = sample.wall_seconds
        self.bench.add(name, sample, stored)

    def one_run(self, run: int) -> None:
        bench = self.bench
        bench.begin()
        self.measured(run, "cp", self.copy(), bench.target)
        remove(bench.target)
        if self.wants(*BACKUPS, *RESTORES, *KEEPING):
            self.backups(run)
            self.restores(run)
            if self.wants(*KEEPING):
                self.keeping(run)
            remove(bench.archive)
        if self.wants("plain-digest"):
            program = Path(bench.options.backy).with_name("plain-digest")
            self.measured(run, "plain-digest", [program, bench.day(0)])
        if self.wants("sha256sum"):
            self.measured(run, "sha256sum", ["sha256sum", bench.day(0)])
        if self.wants("qemu-img") and shutil.which("qemu-img"):
            convert: list[str | Path] = ["qemu-img", "convert", "-f", "raw", "-O", "raw", bench.day(0), bench.target]
            self.measured(run, "qemu-img", convert)
        remove(bench.work)

    def backups(self, run: int) -> None:
        """Leaves an archive with day 0 to the last day, however few of them are to be measured."""
        bench = self.bench
        bench.point_source_at(bench.day(0))
        bench.new_archive()
        force = bench.backy("backup", "--force")
        self.measured(run, "first", force, bench.archive)
        if self.wants("unchanged"):
            self.measured(run, "unchanged", force, bench.archive)
            # The restore of the oldest of four is to read through the days alone.
            bench.new_archive()
            quiet(*force)
        for day in range(1, DAYS + 1):
            bench.point_source_at(bench.day(day))
            if self.wants("day"):
                self.measured(run, "day", force, bench.archive, day)
            else:
                quiet(*force)
        if self.wants("day"):
            self.stored = {
                "archive_bytes": allocated_bytes(bench.archive),
                "image_bytes": allocated_bytes(bench.archive / "last.raw"),
                "deltas_bytes": sum(allocated_bytes(delta) for delta in bench.archive.glob("*.qcow2")),
            }

    def restores(self, run: int) -> None:
        bench = self.bench
        for name, revision, day in (("restore-newest", "latest", DAYS), ("restore-oldest", "first", 0)):
            if self.wants(name):
                self.measured(run, name, bench.backy("restore", "--revision", revision, bench.target))
                must_equal(bench.target, bench.day(day), name)
                remove(bench.target)
        if self.wants("restore-near"):
            quiet("cp", "--sparse=always", bench.day(DAYS - 1), bench.target)
            restore = bench.backy("restore", "--force", "--revision", "latest", bench.target)
            self.measured(run, "restore-near", restore)
            must_equal(bench.target, bench.day(DAYS), "restore-near")
            remove(bench.target)

    def keeping(self, run: int) -> None:
        """On an image and four deltas: the days, and one day again."""
        bench = self.bench
        bench.point_source_at(bench.day(DAYS - 1))
        quiet(*bench.backy("backup", "--force"))
        if self.wants("scrub"):
            self.measured(run, "scrub", bench.backy("scrub"), bench.archive)
        if self.wants("rm-oldest"):
            self.measured(run, "rm-oldest", bench.backy("rm", "first"), bench.archive)
        if self.wants("rm-middle"):
            delta_bytes = allocated_bytes(delta_of(bench, "2"))
            self.measured(run, "rm-middle", bench.backy("rm", "2"), bench.archive, delta_bytes=delta_bytes)
            for name, revision, day in (("newest", "0", DAYS - 1), ("oldest", "2", 1)):
                quiet(*bench.backy("restore", "--revision", revision, bench.target))
                must_equal(bench.target, bench.day(day), f"restore of the {name} after rm")
                remove(bench.target)


def delta_of(bench: Bench, revision: str) -> Path:
    """The file that holds a revision."""
    command = [str(part) for part in bench.backy("find", "-r", revision)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return Path(found.stdout.strip())
