"""What pickles of backy's objects call. Archives, reports, progress and errors can be pickled and copied.

A pickle can be read by the version that has written it. It holds text and numbers and nothing of Python's own modules,
some of which move between versions of Python, as the classes of pathlib did in 3.13.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any as _Any

    from backy._backy import Archive as _Archive
    from backy._backy import Progress as _Progress


def report(kind: _Any, text: str) -> _Any:
    """A report of this class."""
    return kind._from_exact(text)


def archive(path: str, trust: bool) -> _Archive:
    """The archive in a folder, which need not be there any more."""
    from backy._backy import Archive

    return Archive._at(path, trust)


def progress(phase: str, bytes_done: int, bytes_total: int) -> _Progress:
    """How far an operation was."""
    from backy._backy import Progress

    return Progress._of(phase, bytes_done, bytes_total)
