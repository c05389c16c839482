"""Backups of block devices: what is in an archive.

>>> import backy
>>> archive = backy.Archive("/srv/backup/mynode")
>>> for revision in archive.revisions:
...     print(revision.timestamp, revision.size, revision.tags)
"""

from backy._backy import Archive, Revision, __version__
from backy.errors import (
    ArchiveAccessError,
    ArchiveDamagedError,
    ArchiveNotFoundError,
    ArchiveUnsupportedError,
    BackyError,
)

__all__ = [
    "Archive",
    "ArchiveAccessError",
    "ArchiveDamagedError",
    "ArchiveNotFoundError",
    "ArchiveUnsupportedError",
    "BackyError",
    "Revision",
    "__version__",
]
