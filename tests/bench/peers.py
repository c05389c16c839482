"""restic and borg on the same days as backy. `make bench-peers` installs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from measure import Sample, measure, must_equal, quiet, remove
from places import CHECKOUT, DAYS, Bench


class Peer:
    """One program: how it does what backy's operations do."""

    program: str

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.store = bench.work / self.program
        self.base = bench.work / f"{self.program}-base"
        self.env = {**os.environ}

    @classmethod
    def found(cls) -> str | None:
        """Its path; the virtual environment of the checkout comes last."""
        return shutil.which(cls.program) or shutil.which(cls.program, path=CHECKOUT / ".venv/bin")

    def run(self, run: int, script: str, *arguments: str | Path) -> Sample:
        """Measures lines for the shell: $0 is the program, the arguments follow."""
        return measure(run, ["sh", "-ec", script, str(self.found()), *arguments], self.env)

    def init(self) -> None:
        raise NotImplementedError

    def backup(self, run: int, image: Path) -> Sample:
        raise NotImplementedError

    def restore(self, run: int, number: int, target: Path) -> Sample:
        """`number` counts the backups from 0, the oldest."""
        raise NotImplementedError

    def scrub(self, run: int) -> Sample:
        raise NotImplementedError

    def remove_oldest(self, run: int) -> Sample:
        raise NotImplementedError


class Restic(Peer):
    """restic without compression settings of its own."""

    program = "restic"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.env |= {
            "RESTIC_PASSWORD": "bench",
            "RESTIC_REPOSITORY": str(self.store),
            "RESTIC_CACHE_DIR": str(self.base),
        }

    def init(self) -> None:
        quiet(str(self.found()), "init", env=self.env)

    def backup(self, run: int, image: Path) -> Sample:
        """By standard input, for restic would save the symlink; under one name, so that it finds its parent."""
        return self.run(run, 'exec "$0" --quiet backup --stdin --stdin-filename disk.img < "$1"', image)

    def restore(self, run: int, number: int, target: Path) -> Sample:
        return self.run(run, 'exec "$0" --quiet dump "$1" disk.img > "$2"', self.snapshot(number), target)

    def scrub(self, run: int) -> Sample:
        return self.run(run, 'exec "$0" --quiet check --read-data')

    def remove_oldest(self, run: int) -> Sample:
        return self.run(run, 'exec "$0" --quiet forget --prune "$1"', self.snapshot(0))

    def snapshot(self, number: int) -> str:
        command = [str(self.found()), "--quiet", "snapshots", "--json"]
        listed = subprocess.run(command, check=True, capture_output=True, env=self.env)
        snapshots = sorted(json.loads(listed.stdout), key=lambda snapshot: str(snapshot["time"]))
        return str(snapshots[number]["id"])


class Borg(Peer):
    """borg with its default chunker, without encryption."""

    program = "borg"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.backups = 0
        self.env |= {
            "BORG_REPO": str(self.store),
            "BORG_BASE_DIR": str(self.base),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }

    def init(self) -> None:
        quiet(str(self.found()), "init", "--encryption", "none", env=self.env)

    def backup(self, run: int, image: Path) -> Sample:
        self.backups += 1
        name = str(self.backups - 1)
        return self.run(run, 'exec "$0" create --stdin-name disk.img "::$2" - < "$1"', image, name)

    def restore(self, run: int, number: int, target: Path) -> Sample:
        return self.run(run, 'exec "$0" extract --sparse --stdout "::$1" > "$2"', str(number), target)

    def scrub(self, run: int) -> Sample:
        return self.run(run, 'exec "$0" check --verify-data')

    def remove_oldest(self, run: int) -> Sample:
        return self.run(run, '"$0" delete ::0; "$0" compact')


PEERS: tuple[type[Peer], ...] = (Restic, Borg)


def one_peer_run(bench: Bench, run: int, peer: Peer) -> None:
    """The days first, so that as many backups are checked and the oldest is as much by itself as with backy."""

    def add(name: str, sample: Sample, stored: Path | None = None) -> None:
        bench.add(f"{peer.program} {name}", sample, stored)

    bench.begin()
    peer.init()
    for day in range(DAYS + 1):
        bench.filler.fill()
        sample = peer.backup(run, bench.day(day))
        sample.day = day
        add("day" if day else "first", sample, peer.store)
    for name, day in (("restore-newest", DAYS), ("restore-oldest", 0)):
        bench.filler.fill()
        add(name, peer.restore(run, day, bench.target))
        must_equal(bench.target, bench.day(day), f"{name} by {peer.program}")
        remove(bench.target)
    add("unchanged", peer.backup(run, bench.day(DAYS)), peer.store)
    add("scrub", peer.scrub(run), peer.store)
    add("rm-oldest", peer.remove_oldest(run), peer.store)
    remove(bench.work)
