"""`Revision.blocksums` of 2014 for an archive of today, which stores no MD5."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any


def md5(chunk: bytes) -> str:
    """In hex digits. It protects nothing here, so a system that forbids MD5 for security still computes it."""
    return hashlib.md5(chunk, usedforsecurity=False).hexdigest()


# MutableMapping comes first: its methods go through the five below, while a dict's own would show what is not computed.
class Blocksums(MutableMapping[int, str], dict[int, str]):  # type: ignore[misc]
    """MD5s by chunk number. Each is computed when it is first looked at, for that reads the chunk; `len` reads none."""

    def __init__(self, numbers: Iterable[int], compute: Callable[[int], str]) -> None:
        dict.__init__(self, dict.fromkeys(numbers, ""))
        self._compute = compute

    def __getitem__(self, number: int) -> str:
        known = dict.__getitem__(self, number)
        if not known:
            known = self._compute(number)
            dict.__setitem__(self, number, known)
        return known

    def __setitem__(self, number: int, checksum: str) -> None:
        dict.__setitem__(self, number, checksum)

    def __delitem__(self, number: int) -> None:
        dict.__delitem__(self, number)

    def __iter__(self) -> Iterator[int]:
        return dict.__iter__(self)

    def __len__(self) -> int:
        return dict.__len__(self)

    def __contains__(self, number: object) -> bool:
        return dict.__contains__(self, number)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __or__(self, other: Any) -> Any:
        return dict(self) | other

    def __ror__(self, other: Any) -> Any:
        return other | dict(self)

    def copy(self) -> dict[int, str]:
        """A dict with all of them computed."""
        return dict(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()
