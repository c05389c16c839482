"""The images that are backed up, and the places that the commands write to."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from measure import Results, Sample, allocated_bytes, measure, quiet, remove
from memory import Filler
from workload import parse_size

DAYS = 3
HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]


class Bench:
    """Options, places and results; the results are those of one subject at a time."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.root = Path(options.dir)
        self.images = self.root / "images"
        # What a subject makes for itself beside them.
        self.scratch = self.root / "scratch"
        self.work = self.root / "work"
        self.source = self.work / "source.img"
        self.archive = self.work / "archive"
        self.target = self.work / "target.img"
        self.wanted: set[str] = options.only
        self.results = Results()
        # Beside what was built: the images may be in memory.
        self.filler = Filler(CHECKOUT / "target" / "bench-filler")

    def floor_bytes(self) -> int:
        """A child counts the memory of the process that started it, this one, as its own: nothing measures lower."""
        return measure(0, ["true"]).peak_bytes

    def day(self, number: int) -> Path:
        return self.images / f"day{number}.img"

    def backy(self, *arguments: str | Path) -> list[str | Path]:
        return [self.options.backy, "-b", self.archive, *arguments]

    def add(self, name: str, sample: Sample, stored: Path | None = None) -> None:
        if stored is not None:
            sample.stored_bytes = allocated_bytes(stored)
        self.results.add(name, sample)

    def begin(self) -> None:
        """An empty folder to work in."""
        remove(self.work)
        self.work.mkdir(parents=True)

    def begin_scratch(self) -> None:
        remove(self.scratch)
        self.scratch.mkdir(parents=True)

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

    def point_source_at(self, image: Path) -> None:
        """A symlink as source is followed at each backup."""
        self.source.unlink(missing_ok=True)
        self.source.symlink_to(image)

    def new_archive(self) -> None:
        remove(self.archive)
        quiet(*self.backy("init", self.source))

    def configure(self, *settings: str) -> None:
        """Nothing but the source and these settings: without a schedule, every `backup` is due and nothing expires."""
        config = self.archive / "backy.toml"
        source = next(line for line in config.read_text().splitlines() if line.startswith("source"))
        config.write_text("\n".join([source, *settings]) + "\n")
