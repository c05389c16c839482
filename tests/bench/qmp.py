"""QEMU's monitor (QMP)."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import IO, Any


class Monitor:
    """A connection to the monitor, over a socket or the two ends of a pipe."""

    def __init__(self, reader: IO[bytes], writer: IO[bytes]) -> None:
        self.reader, self.writer = reader, writer
        self.events: list[dict[str, Any]] = []
        self.line()
        self.ask("qmp_capabilities")

    @classmethod
    def at(cls, path: Path) -> Monitor:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        reader, writer = connection.makefile("rb"), connection.makefile("wb")
        # It stays open until the files over it are closed.
        connection.close()
        return cls(reader, writer)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, what: BaseException | None, at: TracebackType | None) -> None:
        self.reader.close()
        self.writer.close()

    def line(self) -> dict[str, Any]:
        line = self.reader.readline()
        if not line:
            raise SystemExit("bench: QEMU has closed its monitor")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        self.writer.write(json.dumps({"execute": command, "arguments": arguments or {}}).encode() + b"\n")
        self.writer.flush()
        while True:
            answer = self.line()
            if "error" in answer:
                raise SystemExit(f"bench: {command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]
            self.events.append(answer)

    def wait(self, event: str) -> dict[str, Any]:
        """The next event of a name, with its data."""
        while True:
            for number, found in enumerate(self.events):
                if found.get("event") == event:
                    data: dict[str, Any] = self.events.pop(number)["data"]
                    return data
            self.events.append(self.line())
