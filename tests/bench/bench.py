#!/usr/bin/env python3
"""Measure backy against cp, on the images of workload.py.

  bench.py [--size 4G] [--runs 5] [--dir /dev/shm/backy-bench] [--only first,day] [--peers] [--json FILE]

Every run begins with `cp --sparse=always` of the first image, and every operation of that run is set in relation
to it: absolute times say more about the machine than about the program. The table has medians over the runs. What
is restored is compared byte by byte, outside of the timing. Nothing here asserts a time.

Making the images needs root (loop mounts); they stay in --dir until the end, or for the next call with --keep.
Operations: cp, first, unchanged, day, restore-newest, restore-oldest, restore-near, scrub, rm-oldest, rm-middle,
sha256sum, qemu-img, peers (restic and borg, where installed), sparse (a dense image against a huge sparse one with the
same data), many (an archive of --revisions small revisions against one with a single one), mounts (see mounts.py),
python (the module in .venv against the command).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from interpreter import measure_python
from mounts import Mounts

from workload import parse_size

MIB = 1 << 20
DAYS = 3
HERE = Path(__file__).resolve().parent

# Operation of backy: highest accepted ratio to cp in the same run.
TARGETS = {
    "first": 1.6,
    "day": 1.2,
    "unchanged": 0.9,
    "restore-newest": 1.6,
    "restore-oldest": 1.6,
    "scrub": 1.2,
}
PEAK_TARGET_MIB = 96
SPARSE_TARGET = 1.10
# Bytes written by the removal of a middle revision, to the bytes of its own delta.
RM_MIDDLE_TARGET = 1.5
# With many revisions: more milliseconds for status, and restore of the oldest to that of the newest.
MANY_STATUS_TARGET_MS = 50
MANY_RESTORE_TARGET = 1.5
OPERATIONS = (
    "cp",
    "first",
    "unchanged",
    "day",
    "restore-newest",
    "restore-oldest",
    "restore-near",
    "scrub",
    "rm-oldest",
    "rm-middle",
    "sha256sum",
    "qemu-img",
)
EXTRA = ("peers", "sparse", "many", "mounts", "python")


@dataclass
class Sample:
    """One command, measured."""

    run: int
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    stored_bytes: int | None = None
    ratio: float | None = None
    written_bytes: int = 0
    delta_bytes: int = 0


@dataclass
class Results:
    """Samples by what was measured, in the order of the first run."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    baselines: dict[int, float] = field(default_factory=dict)
    floor_bytes: int = 0

    def add(self, name: str, sample: Sample) -> None:
        baseline = self.baselines.get(sample.run)
        sample.ratio = sample.wall_seconds / baseline if baseline else None
        self.samples.setdefault(name, []).append(sample)
        ratio = f"{sample.ratio:6.2f} x" if sample.ratio else ""
        peak = f"{sample.peak_bytes / MIB:6.0f} MiB"
        print(f"  run {sample.run + 1}  {name:<24} {sample.wall_seconds:8.3f} s  {peak} {ratio}", file=sys.stderr)


def measure(run: int, command: Sequence[str | Path], env: dict[str, str] | None = None) -> Sample:
    """Runs a command to its end; it must succeed."""
    arguments = [str(argument) for argument in command]
    begin = time.perf_counter()
    # Popen.wait() would throw the resource usage away.
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=env)
    # What it wrote can be read while it has ended and not been waited for.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    wall_seconds = time.perf_counter() - begin
    written_bytes = written_by(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"bench: exit status {process.returncode} of: {' '.join(arguments)}")
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Sample(run, wall_seconds, cpu_seconds, usage.ru_maxrss * 1024, written_bytes=written_bytes)


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


class Bench:
    """The images, the places that the commands write to, and what was measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.root = Path(options.dir)
        self.images = self.root / "images"
        self.work = self.root / "work"
        self.source = self.work / "source.img"
        self.archive = self.work / "archive"
        self.target = self.work / "target.img"
        self.wanted: set[str] = options.only
        self.results = Results()
        # A child counts the memory of the process that started it, this one, as its own: nothing measures lower.
        self.results.floor_bytes = measure(0, ["true"]).peak_bytes

    def day(self, number: int) -> Path:
        return self.images / f"day{number}.img"

    def wants(self, *operations: str) -> bool:
        return any(operation in self.wanted for operation in operations)

    def backy(self, *arguments: str | Path) -> list[str | Path]:
        return [self.options.backy, "-b", self.archive, *arguments]

    def add(self, name: str, sample: Sample, stored: Path | None = None) -> None:
        if stored is not None:
            sample.stored_bytes = allocated_bytes(stored)
        self.results.add(name, sample)

    def prepare_images(self) -> None:
        size_bytes = parse_size(self.options.size)
        made = self.images / "workload.json"
        if made.exists() and json.loads(made.read_text())["size"] == size_bytes:
            return
        if os.geteuid() != 0:
            sys.exit("bench: making the images needs root, for loop mounts")
        remove(self.images)
        print(f"making the images in {self.images}", file=sys.stderr)
        self.images.mkdir(parents=True)
        command = [sys.executable, HERE / "workload.py", "--dir", self.images, "--size", self.options.size]
        subprocess.run([*command, "--days", str(DAYS)], check=True, stdout=sys.stderr)

    def point_source_at(self, day: int) -> None:
        """A symlink as source is followed at each backup."""
        self.source.unlink(missing_ok=True)
        self.source.symlink_to(self.day(day))

    def warm_pages(self, image: Path) -> None:
        """Gets the host to give this machine the memory that the next command is going to fill.

        Memory that was not in use for a while belongs to the host again on many virtual machines; taking it back has
        cost from nothing to three times what is to be measured, for whoever came first.
        """
        warm = self.work / "warm"
        quiet("cp", "--sparse=always", image, warm)
        remove(warm)

    def new_archive(self) -> None:
        remove(self.archive)
        quiet(*self.backy("init", self.source))

    def baseline(self, run: int) -> None:
        remove(self.target)
        self.warm_pages(self.day(0))
        sample = measure(run, ["cp", "--sparse=always", self.day(0), self.target])
        self.results.baselines[run] = sample.wall_seconds
        self.add("cp", sample, self.target)
        remove(self.target)

    def one_run(self, run: int) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.baseline(run)
        backups = ("first", "unchanged", "day", "restore-newest", "restore-oldest", "restore-near")
        keeping = ("scrub", "rm-oldest", "rm-middle")
        if self.wants(*backups, *keeping):
            self.backups(run)
            self.restores(run)
            if self.wants(*keeping):
                self.keeping(run)
            remove(self.archive)
        if self.wants("sha256sum"):
            self.add("sha256sum", measure(run, ["sha256sum", self.day(0)]))
        if self.wants("qemu-img") and shutil.which("qemu-img"):
            convert = ["qemu-img", "convert", "-f", "raw", "-O", "raw"]
            self.warm_pages(self.day(0))
            self.add("qemu-img", measure(run, [*convert, self.day(0), self.target]))
            remove(self.target)
        if self.wants("peers"):
            for peer in (Restic(self), Borg(self)):
                if shutil.which(peer.program):
                    peer.one_run(run)
                elif run == 0:
                    print(f"SKIPPED: {peer.program}: it is not installed", file=sys.stderr)
        shutil.rmtree(self.work)

    def backups(self, run: int) -> None:
        """Leaves an archive with day 0 to the last day, however few of them are to be measured."""
        self.point_source_at(0)
        self.new_archive()
        force = self.backy("backup", "--force")
        self.warm_pages(self.day(0))
        self.add("first", measure(run, force), self.archive)
        if self.wants("unchanged"):
            self.add("unchanged", measure(run, force), self.archive)
            # The restore of the oldest of four is to read through the days alone.
            self.new_archive()
            quiet(*force)
        for day in range(1, DAYS + 1):
            self.point_source_at(day)
            sample = measure(run, force)
            if self.wants("day"):
                self.add("day", sample, self.archive)

    def restores(self, run: int) -> None:
        for name, revision, day in (("restore-newest", "latest", DAYS), ("restore-oldest", "first", 0)):
            if self.wants(name):
                self.warm_pages(self.day(day))
                sample = measure(run, self.backy("restore", "--revision", revision, self.target))
                self.add(name, sample)
                must_equal(self.target, self.day(day), name)
                remove(self.target)
        if self.wants("restore-near"):
            quiet("cp", "--sparse=always", self.day(DAYS - 1), self.target)
            sample = measure(run, self.backy("restore", "--force", "--revision", "latest", self.target))
            self.add("restore-near", sample)
            must_equal(self.target, self.day(DAYS), "restore-near")
            remove(self.target)


    def keeping(self, run: int) -> None:
        """On an image and four deltas: the days, and one day again."""
        self.point_source_at(DAYS - 1)
        quiet(*self.backy("backup", "--force"))
        if self.wants("scrub"):
            self.add("scrub", measure(run, self.backy("scrub")), self.archive)
        if self.wants("rm-oldest"):
            self.add("rm-oldest", measure(run, self.backy("rm", "first")), self.archive)
        if self.wants("rm-middle"):
            find_command = [str(part) for part in self.backy("find", "-r", "2")]
            find = subprocess.run(find_command, check=True, capture_output=True)
            delta_bytes = allocated_bytes(Path(find.stdout.decode().strip()))
            sample = measure(run, self.backy("rm", "2"))
            sample.delta_bytes = delta_bytes
            self.add("rm-middle", sample, self.archive)
            for name, revision, day in (("newest", "0", DAYS - 1), ("oldest", "2", 1)):
                quiet(*self.backy("restore", "--revision", revision, self.target))
                must_equal(self.target, self.day(day), f"restore of the {name} after rm")
                remove(self.target)


class Many:
    """An archive with very many small revisions."""

    IMAGE_BYTES = 256 * MIB
    CHANGED_BYTES = MIB

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.image = bench.root / "many" / "image"
        self.first = bench.root / "many" / "first"
        self.kept = bench.root / "many" / "archive"

    def change(self, generator: random.Random) -> None:
        with open(self.image, "r+b") as image:
            for _ in range(self.CHANGED_BYTES // 65536):
                image.seek(generator.randrange(self.IMAGE_BYTES // 65536) * 65536)
                image.write(generator.randbytes(32768).hex().encode())

    def prepare(self) -> None:
        bench = self.bench
        remove(self.image.parent)
        self.image.parent.mkdir(parents=True)
        generator = random.Random(2)
        # In pieces: a child counts the memory of the process that started it as its own.
        with open(self.image, "wb") as image:
            for _ in range(self.IMAGE_BYTES // MIB):
                image.write(generator.randbytes(MIB // 2).hex().encode())
        shutil.copyfile(self.image, self.first)
        bench.work.mkdir(parents=True, exist_ok=True)
        bench.source.unlink(missing_ok=True)
        bench.source.symlink_to(self.image)
        bench.new_archive()
        config = bench.archive / "backy.toml"
        lines = config.read_text().splitlines()
        config.write_text("\n".join(line for line in lines if line.startswith("source")) + "\n")
        print(f"making {bench.options.revisions} revisions", file=sys.stderr)
        quiet(*bench.backy("backup"))
        bench.add("many status of 1", measure(0, bench.backy("status")))
        bench.add("many backup to 1", measure(0, bench.backy("backup")))
        for _ in range(bench.options.revisions - 2):
            self.change(generator)
            quiet(*bench.backy("backup"))
        bench.archive.rename(self.kept)

    def one_run(self, run: int) -> None:
        bench = self.bench
        shutil.rmtree(bench.work, ignore_errors=True)
        bench.work.mkdir(parents=True)
        quiet("cp", "-a", "--sparse=always", self.kept, bench.archive)
        bench.source.symlink_to(self.image)
        bench.add("many status", measure(run, bench.backy("status")))
        bench.add("many backup", measure(run, bench.backy("backup")))
        for name, revision, image in (("newest", "latest", self.image), ("oldest", "first", self.first)):
            bench.add(f"many restore-{name}", measure(run, bench.backy("restore", "-r", revision, bench.target)))
            must_equal(bench.target, image, f"restore of the {name} of many")
            remove(bench.target)
        bench.add("many scrub", measure(run, bench.backy("scrub")))
        # A hundred neighbours in one pass.
        bench.add("many rm of 100", measure(run, bench.backy("rm", "100..199")))
        bench.add("many maintenance", measure(run, bench.backy("maintenance", "--keep", "100")))
        shutil.rmtree(bench.work)


class Restic:
    """restic without compression settings of its own, on the same images."""

    program = "restic"

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.store = bench.work / "restic"
        self.env = {
            **os.environ,
            "RESTIC_PASSWORD": "bench",
            "RESTIC_REPOSITORY": str(self.store),
            "RESTIC_CACHE_DIR": str(bench.work / "restic-cache"),
        }

    def backup(self, run: int) -> Sample:
        """By standard input, for restic would save the symlink; under one name, so that it finds its parent."""
        source = self.bench.source.resolve()
        script = 'exec restic --quiet backup --stdin --stdin-filename disk.img < "$1"'
        return measure(run, ["sh", "-c", script, "sh", source], self.env)

    def restore(self, run: int, target: Path) -> Sample:
        script = 'exec restic --quiet dump latest disk.img > "$1"'
        return measure(run, ["sh", "-c", script, "sh", target], self.env)

    def one_run(self, run: int) -> None:
        quiet("restic", "init", env=self.env)
        one_peer_run(self.bench, run, self)
        remove(self.store, self.bench.work / "restic-cache")


class Borg:
    """borg with its default chunker, without encryption, on the same images."""

    program = "borg"

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.store = bench.work / "borg"
        self.backups = 0
        self.env = {
            **os.environ,
            "BORG_REPO": str(self.store),
            "BORG_BASE_DIR": str(bench.work / "borg-base"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }

    def backup(self, run: int) -> Sample:
        self.backups += 1
        source = self.bench.source.resolve()
        script = 'exec borg create --stdin-name disk.img "::$2" - < "$1"'
        return measure(run, ["sh", "-c", script, "sh", source, str(self.backups)], self.env)

    def restore(self, run: int, target: Path) -> Sample:
        script = 'exec borg extract --sparse --stdout "::$2" > "$1"'
        return measure(run, ["sh", "-c", script, "sh", target, str(self.backups)], self.env)

    def one_run(self, run: int) -> None:
        quiet("borg", "init", "--encryption", "none", env=self.env)
        one_peer_run(self.bench, run, self)
        remove(self.store, self.bench.work / "borg-base")


def one_peer_run(bench: Bench, run: int, peer: Restic | Borg) -> None:
    for name, day in (("first", 0), ("unchanged", 0), ("day", 1)):
        bench.point_source_at(day)
        bench.warm_pages(bench.day(day))
        bench.add(f"{peer.program} {name}", peer.backup(run), peer.store)
    bench.warm_pages(bench.day(1))
    bench.add(f"{peer.program} restore-newest", peer.restore(run, bench.target))
    must_equal(bench.target, bench.day(1), f"restore by {peer.program}")
    remove(bench.target)


class Sparse:
    """The same data in a dense image and scattered over a huge sparse one: holes must cost nothing."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.dense = bench.root / "sparse" / "dense.img"
        self.huge = bench.root / "sparse" / "huge.img"

    def prepare(self) -> None:
        remove(self.dense.parent)
        self.dense.parent.mkdir(parents=True)
        data_bytes = parse_size(self.bench.options.sparse_data)
        huge_bytes = parse_size(self.bench.options.sparse_size)
        piece_bytes = MIB
        stride = huge_bytes // max(1, data_bytes // piece_bytes)
        # Text-like noise, which compresses about two to one.
        generator = random.Random(1)
        with open(self.dense, "wb") as dense, open(self.huge, "wb") as huge:
            huge.truncate(huge_bytes)
            for number in range(data_bytes // piece_bytes):
                piece = generator.randbytes(piece_bytes // 2).hex().encode()
                dense.write(piece)
                huge.seek(number * stride // piece_bytes * piece_bytes)
                huge.write(piece)

    def one_run(self, run: int) -> None:
        bench = self.bench
        shutil.rmtree(bench.work, ignore_errors=True)
        bench.work.mkdir(parents=True)
        for name, image in (("dense", self.dense), ("huge", self.huge)):
            bench.source.unlink(missing_ok=True)
            bench.source.symlink_to(image)
            bench.new_archive()
            bench.warm_pages(self.dense)
            for operation in ("first", "unchanged"):
                sample = measure(run, bench.backy("backup", "--force"))
                bench.add(f"sparse {name} {operation}", sample, bench.archive)
            remove(bench.archive)
        shutil.rmtree(bench.work)


def median(values: Iterable[float]) -> float:
    return statistics.median(list(values))


def table(results: Results) -> str:
    lines = [
        "| operation | seconds: median (min–max) | ratio to cp | target | CPU s | peak MiB | stored MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, samples in results.samples.items():
        walls = [sample.wall_seconds for sample in samples]
        ratios = [sample.ratio for sample in samples if sample.ratio is not None]
        stored = [sample.stored_bytes for sample in samples if sample.stored_bytes is not None]
        cells = (
            name,
            f"{median(walls):.2f} ({min(walls):.2f}–{max(walls):.2f})",
            f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "",
            f"≤ {TARGETS[name]:.1f}{mark(median(ratios) <= TARGETS[name])}" if name in TARGETS and ratios else "",
            f"{median(sample.cpu_seconds for sample in samples):.2f}",
            peak_cell(max(sample.peak_bytes for sample in samples), results.floor_bytes),
            f"{max(stored) / MIB:.0f}" if stored else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    notes = [*peak_note(results), *sparse_notes(results), *removal_note(results), *many_notes(results)]
    return "\n".join([*lines, *notes])


def peak_cell(peak_bytes: int, floor_bytes: int) -> str:
    below = "< " if peak_bytes < floor_bytes + MIB else ""
    return f"{below}{-(-peak_bytes // MIB)}"


def mark(met: bool) -> str:
    return "" if met else " (missed)"


def peak_note(results: Results) -> list[str]:
    names = {*OPERATIONS} - {"cp", "sha256sum", "qemu-img"}
    peaks = [s.peak_bytes for name, samples in results.samples.items() for s in samples
             if name in names or name.startswith(("sparse ", "many "))]  # fmt: skip
    if not peaks:
        return []
    peak = max(peaks) / MIB
    return ["", f"Peak memory of backy: {peak:.0f} MiB, target ≤ {PEAK_TARGET_MIB} MiB{mark(peak <= PEAK_TARGET_MIB)}."]


def removal_note(results: Results) -> list[str]:
    samples = results.samples.get("rm-middle", [])
    if not samples:
        return []
    share = median(sample.written_bytes / sample.delta_bytes for sample in samples)
    return ["", f"Removing a middle revision wrote {share:.2f} times the bytes of its delta, "
                f"target ≤ {RM_MIDDLE_TARGET}{mark(share <= RM_MIDDLE_TARGET)}."]  # fmt: skip


def many_notes(results: Results) -> list[str]:
    def wall(name: str) -> float:
        return median(sample.wall_seconds for sample in results.samples[name])

    if "many status" not in results.samples:
        return []
    more_ms = (wall("many status") - wall("many status of 1")) * 1000
    oldest = wall("many restore-oldest") / wall("many restore-newest")
    return ["", f"Many revisions: status takes {more_ms:.0f} ms more than with one, "
                f"target ≤ {MANY_STATUS_TARGET_MS}{mark(more_ms <= MANY_STATUS_TARGET_MS)}; the oldest is restored in "
                f"{oldest:.2f} times the time of the newest, target ≤ {MANY_RESTORE_TARGET}"
                f"{mark(oldest <= MANY_RESTORE_TARGET)}."]  # fmt: skip


def sparse_notes(results: Results) -> list[str]:
    lines = []
    for operation in ("first", "unchanged"):
        dense = results.samples.get(f"sparse dense {operation}", [])
        huge = results.samples.get(f"sparse huge {operation}", [])
        if dense and huge:
            ratio = median(h.wall_seconds / d.wall_seconds for d, h in zip(dense, huge))
            lines.append(
                f"Huge sparse image against a dense one with the same data, {operation}: {ratio:.2f} x, "
                f"target ≤ {SPARSE_TARGET:.2f}{mark(ratio <= SPARSE_TARGET)}."
            )
    return ["", *lines] if lines else []


def warn_about_space(root: Path, size_bytes: int) -> None:
    """Images of four days, an archive and a target, each with about 0.6 of the size allocated."""
    needed = int(0.6 * size_bytes * (DAYS + 1 + 2.2))
    free = shutil.disk_usage(root).free
    made = allocated_bytes(root / "images") if (root / "images").exists() else 0
    if free + made < needed:
        print(
            f"bench: {root} has {free / MIB:.0f} MiB free, about {needed / MIB:.0f} MiB are needed: "
            "choose a smaller --size or another --dir",
            file=sys.stderr,
        )


def parse_only(text: str) -> set[str]:
    wanted = {part.strip() for part in text.split(",") if part.strip()}
    unknown = wanted - {*OPERATIONS, *EXTRA}
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(sorted(unknown))}; there are {', '.join((*OPERATIONS, *EXTRA))}"
        )
    return wanted


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="4G", help="size of the disk image (4G)")
    parser.add_argument("--runs", type=int, default=5, help="how often everything is measured (5)")
    parser.add_argument("--dir", default="/dev/shm/backy-bench", help="where all files go (a folder on tmpfs)")
    parser.add_argument("--only", type=parse_only, default={*OPERATIONS}, help="comma list of operations (all)")
    parser.add_argument("--peers", action="store_true", help="measure restic and borg as well")
    parser.add_argument("--sparse-size", default="1024G", help="size of the huge sparse image (1024G)")
    parser.add_argument("--sparse-data", default="2G", help="data in it (2G)")
    parser.add_argument("--revisions", type=int, default=1000, help="revisions of the archive with many (1000)")
    parser.add_argument("--backy", type=Path, default=HERE.parents[1] / "target/release/backy", help="the binary")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument("--keep", action="store_true", help="leave the images for the next call")
    options = parser.parse_args()
    if options.peers:
        options.only.add("peers")
    if not os.access(options.backy, os.X_OK):
        parser.error(f"{options.backy} is missing; make build makes it")
    return options


def write_json(options: argparse.Namespace, results: Results) -> None:
    document = {
        "size": options.size,
        "runs": options.runs,
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "targets": {**TARGETS, "peak_mib": PEAK_TARGET_MIB, "sparse": SPARSE_TARGET},
        "samples": {name: [asdict(sample) for sample in samples] for name, samples in results.samples.items()},
    }
    options.json.write_text(json.dumps(document, indent=2) + "\n")


def measure_module(bench: Bench) -> str:
    python = HERE.parents[1] / ".venv/bin/python"
    if not python.exists():
        return "SKIPPED: python: make venv installs the module"
    bench.prepare_images()
    bench.work.mkdir(parents=True, exist_ok=True)
    bench.point_source_at(0)
    bench.new_archive()
    quiet(*bench.backy("backup", "--force"))
    runs = bench.options.runs
    return measure_python(python, bench.options.backy, bench.archive, runs, lambda c: measure(0, c).wall_seconds)


def measure_mounts(bench: Bench) -> str:
    bench.prepare_images()
    mounts = Mounts(bench.options.backy, bench.options.backy.with_name("plain-fuse"), bench.root, bench.day(0))
    try:
        mounts.prepare()
        mounts.compare()
        for _ in range(bench.options.runs):
            mounts.one_run()
        mounts.clones()
        return mounts.table()
    finally:
        mounts.close()


def main() -> None:
    options = arguments()
    bench = Bench(options)
    bench.root.mkdir(parents=True, exist_ok=True)
    try:
        if bench.wanted - {"sparse", "many", "mounts", "python"}:
            warn_about_space(bench.root, parse_size(options.size))
            bench.prepare_images()
            for run in range(options.runs):
                bench.one_run(run)
        if bench.wants("sparse"):
            sparse = Sparse(bench)
            sparse.prepare()
            # Their own ratio is to the dense image; cp would measure how fast it finds holes.
            bench.results.baselines.clear()
            for run in range(options.runs):
                sparse.one_run(run)
        if bench.wants("many"):
            many = Many(bench)
            bench.results.baselines.clear()
            many.prepare()
            for run in range(options.runs):
                many.one_run(run)
        if bench.wants("mounts"):
            print(measure_mounts(bench))
        if bench.wants("python"):
            print(measure_module(bench))
        if bench.results.samples:
            print(table(bench.results))
        if options.json:
            write_json(options, bench.results)
    finally:
        remove(bench.work, bench.root / "sparse", bench.root / "many")
        if not options.keep:
            remove(bench.images)
            # Not with rmtree: what else may be in a folder that somebody named is not ours.
            if bench.root.exists() and not any(bench.root.iterdir()):
                bench.root.rmdir()


if __name__ == "__main__":
    main()
