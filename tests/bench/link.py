"""A stand-in for ssh: runs the command that ssh would run, over a line with a delay and a rate.

  link.py [--delay-ms 10] [--mbit 1000] [--log FILE] [ssh's options] HOST COMMAND...

The delay is that of one direction; 0 Mbit/s is a line without limits. FILE gets, as JSON, the bytes of each direction
and the peak memory of the command.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import threading
import time
from pathlib import Path

# The fewer, the less the line needs of the cores.
CHUNK_BYTES = 256 << 10
# What a line and the buffers at its ends hold at most, so that a sender feels a slow reader.
IN_FLIGHT = 32


class Direction:
    """Carries bytes from one descriptor to another, as late as the line makes them."""

    def __init__(self, source: int, target: int, delay_seconds: float, bytes_per_second: float) -> None:
        self.source, self.target = source, target
        self.delay_seconds, self.bytes_per_second = delay_seconds, bytes_per_second
        self.bytes = 0
        self.line: queue.Queue[tuple[float, bytes]] = queue.Queue(IN_FLIGHT)
        self.threads = [threading.Thread(target=self.send, daemon=True), threading.Thread(target=self.arrive)]
        for thread in self.threads:
            thread.start()

    def send(self) -> None:
        free_at = 0.0
        while chunk := os.read(self.source, CHUNK_BYTES):
            self.bytes += len(chunk)
            now = time.monotonic()
            if self.bytes_per_second:
                free_at = max(now, free_at) + len(chunk) / self.bytes_per_second
            self.line.put((max(now, free_at) + self.delay_seconds, chunk))
        self.line.put((0.0, b""))

    def arrive(self) -> None:
        while True:
            due, chunk = self.line.get()
            if not chunk:
                break
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                while chunk:
                    chunk = chunk[os.write(self.target, chunk) :]
            except BrokenPipeError:
                break
        os.close(self.target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay-ms", type=float, default=0)
    parser.add_argument("--mbit", type=float, default=0)
    parser.add_argument("--log", type=Path)
    options, rest = parser.parse_known_args()
    delay_seconds, bytes_per_second = options.delay_ms / 1000, options.mbit * 1e6 / 8
    # As ssh does it: the words after the host are a line for the shell.
    host = next(number for number, word in enumerate(rest) if not word.startswith("-"))
    line = " ".join(rest[host + 1 :])
    command = subprocess.Popen(["sh", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert command.stdin is not None
    assert command.stdout is not None
    there = Direction(0, os.dup(command.stdin.fileno()), delay_seconds, bytes_per_second)
    command.stdin.close()
    back = Direction(os.dup(command.stdout.fileno()), 1, delay_seconds, bytes_per_second)
    back.threads[1].join()
    _, status, usage = os.wait4(command.pid, 0)
    if options.log:
        figures = {"sent_bytes": there.bytes, "received_bytes": back.bytes, "peak_bytes": usage.ru_maxrss * 1024}
        options.log.write_text(json.dumps(figures))
    # A thread may still wait for bytes that nobody sends any more.
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main()
