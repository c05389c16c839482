from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import final

__all__ = ["Archive", "Revision", "__version__"]

__version__: str

@final
class Archive:
    """The directory of one source's backups, opened for reading.

    Needs no lock: a backup may run meanwhile.

    Raises ArchiveNotFoundError where no archive is, another BackyError where it cannot be read.
    """

    def __new__(cls, path: str | PathLike[str]) -> Archive: ...
    @property
    def path(self) -> Path:
        """The directory, as it was given."""

    @property
    def revisions(self) -> list[Revision]:
        """The revisions that there are at this moment, newest first.

        Read from the archive each time, so that a backup made meanwhile shows.
        """

@final
class Revision:
    """The state of the source at one time. Equal to another one if all they say is equal."""

    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    @property
    def uuid(self) -> str:
        """Its name, in lower case with hyphens."""

    @property
    def timestamp(self) -> datetime:
        """When its backup began, with zone UTC."""

    @property
    def size(self) -> int:
        """Size of the image in bytes."""

    @property
    def tags(self) -> tuple[str, ...]:
        """Why it exists, sorted: schedules that were due, and words given by hand."""

    @property
    def digest(self) -> str:
        """SHA-256 over the SHA-256s of its blocks, 64 hex digits; the README in the archive says how to check it."""
