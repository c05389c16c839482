"""QEMU's own incremental backup, as its documentation has it: a persistent bitmap, and `blockdev-backup` into a qcow2.

  qemu_backup.py (--monitor SOCKET | --image IMAGE) --size BYTES [--before FILE] NODE TARGET

The first backup, without --before, copies everything and adds the bitmap. Each further one has what was written since,
over the one before. --image does it for a qcow2 image that no virtual machine has open, by a qemu-storage-daemon.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qmp import Monitor

BITMAP = "peer"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    disk = parser.add_mutually_exclusive_group(required=True)
    disk.add_argument("--monitor", type=Path)
    disk.add_argument("--image", type=Path)
    parser.add_argument("--size", required=True)
    parser.add_argument("--before", type=Path)
    parser.add_argument("node")
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    over = ["-b", options.before, "-F", "qcow2"] if options.before else []
    create = ["qemu-img", "create", "-q", "-f", "qcow2", *over, options.target, options.size]
    subprocess.run([str(part) for part in create], check=True)
    opened = Monitor.at(options.monitor) if options.monitor else storage_daemon(options.image, options.node)
    with opened as monitor:
        backup(monitor, options.node, options.target, options.before is None)


def backup(monitor: Monitor, node: str, target: Path, is_first: bool) -> None:
    image = {"driver": "file", "filename": str(target)}
    monitor.ask("blockdev-add", {"driver": "qcow2", "node-name": "target", "file": image})
    job = {"job-id": "backup", "device": node, "target": "target"}
    bitmap = {"node": node, "name": BITMAP, "persistent": True}
    if is_first:
        actions = [
            {"type": "block-dirty-bitmap-add", "data": bitmap},
            {"type": "blockdev-backup", "data": {**job, "sync": "full"}},
        ]
        monitor.ask("transaction", {"actions": actions})
    else:
        monitor.ask("blockdev-backup", {**job, "sync": "incremental", "bitmap": BITMAP})
    ended = monitor.wait("BLOCK_JOB_COMPLETED")
    if "error" in ended:
        raise SystemExit(f"bench: {ended['error']}")
    # This flushes it.
    monitor.ask("blockdev-del", {"node-name": "target"})


@contextmanager
def storage_daemon(image: Path, node: str) -> Iterator[Monitor]:
    disk = {"driver": "qcow2", "node-name": node, "file": {"driver": "file", "filename": str(image)}}
    command = ["qemu-storage-daemon", "--chardev", "stdio,id=c", "--monitor", "chardev=c"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, "--blockdev", json.dumps(disk)], stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with Monitor(process.stdout, process.stdin) as monitor:
            yield monitor
            # This saves the bitmap.
            monitor.ask("quit")
    if process.returncode != 0:
        raise SystemExit(f"bench: qemu-storage-daemon ended with {process.returncode}")


if __name__ == "__main__":
    main()
