"""Memory that is in the same state before each command."""

from __future__ import annotations

import os
from pathlib import Path

from measure import MIB


class Filler:
    """Fills free memory with the page cache of a file that nobody needs.

    Memory that is free goes back to the host of a virtual machine within seconds, and taking it again has cost up to
    three times what was to be measured. What a command needs now comes out of this cache, as it does on a machine that
    has been at work for a day.
    """

    # A hole; never read twice before memory has been filled with other parts of it many times.
    SIZE_BYTES = 1 << 40

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at = 0
        self.buffer = bytearray(MIB)

    def fill(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        with open(self.path, "a+b", buffering=0) as file:
            file.truncate(self.SIZE_BYTES)
            for _ in range(free_bytes // MIB):
                file.seek(self.at)
                file.readinto(self.buffer)
                self.at = (self.at + MIB) % self.SIZE_BYTES
