"""What can go wrong. The text of each is one line that names the file, what was found and what was expected.

Those with a counterpart among Python's own exceptions are of that class, too.
"""


class BackyError(Exception):
    """The class of everything that backy raises."""


class ArchiveNotFoundError(BackyError, FileNotFoundError):
    """There is no archive in the folder."""


class ArchiveAccessError(BackyError, OSError):
    """The system did not let a file of the archive be read."""


class ArchiveDamagedError(BackyError):
    """A file of the archive is not as it was written."""


class ArchiveUnsupportedError(BackyError):
    """The archive needs a newer version of backy; the text says for what."""
