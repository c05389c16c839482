"""Archives to test with: one made by the `backy` command, and the golden ones of every format."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Made:
    """An archive, and what the source was at each backup, newest first."""

    path: Path
    sources: list[bytes]


@pytest.fixture(scope="session")
def backy_bin() -> Path:
    """The command, as built: from $BACKY_BIN, or the checkout's debug build."""
    path = Path(os.environ.get("BACKY_BIN", CHECKOUT / "target/debug/backy"))
    if not path.exists():
        why = f"{path} is not there; build it with: cargo build -p backy-cli"
        if os.environ.get("CI") == "true":
            pytest.fail(f"nothing may be skipped in CI: {why}")
        pytest.skip(f"SKIPPED: {why}")
    return path


@pytest.fixture(scope="session")
def made(backy_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Three backups of a source that changes, grows to an odd size, and shrinks."""
    folder = tmp_path_factory.mktemp("made")
    source, archive = folder / "source.img", folder / "archive"
    first = b"".join(number.to_bytes(4, "big") * 16384 for number in range(8))
    second = first[:65536] + bytes(65536) + first[131072:] + b"grown by an odd number of bytes"
    third = second[: 4 * 65536]
    source.write_bytes(first)
    run(backy_bin, archive, "init", str(source))
    for content, tag in ((first, "first"), (second, "second"), (third, "third")):
        source.write_bytes(content)
        run(backy_bin, archive, "backup", "--tag", tag, "--tag", "every")
    return Made(archive, [third, second, first])


def run(backy_bin: Path, archive: Path, *arguments: str) -> None:
    subprocess.run([backy_bin, "-b", archive, *arguments], check=True, stdin=subprocess.DEVNULL)
