"""`Revision.blocksums` of 2014 for an archive of today, which stores no MD5."""

from __future__ import annotations

import collections.abc
import hashlib
import typing


def md5(chunk: bytes) -> str:
    """In hex digits. It protects nothing here, so a system that forbids MD5 for security still computes it."""
    return hashlib.md5(chunk, usedforsecurity=False).hexdigest()


class Blocksums(dict[int, str]):
    """MD5s by chunk number. Each is computed when it is first looked at, for that reads the chunk; `len` reads none.

    Every method of a dict that shows values goes through `__getitem__` here: its own shows what is not computed yet.
    """

    def __init__(self, numbers: collections.abc.Iterable[int], compute: collections.abc.Callable[[int], str]) -> None:
        super().__init__(dict.fromkeys(numbers, ""))
        self._compute = compute

    def __getitem__(self, number: int) -> str:
        known = super().__getitem__(number)
        if not known:
            known = self._compute(number)
            self[number] = known
        return known

    # dict(), `**` and update() of another dict copy past __getitem__, unless this is not a dict's own.
    def __iter__(self) -> collections.abc.Iterator[int]:
        return super().__iter__()

    def get(self, number: int, default: typing.Any = None) -> typing.Any:
        return self[number] if number in self else default  # noqa: SIM401

    def setdefault(self, number: int, default: str = "") -> str:
        return self[number] if number in self else super().setdefault(number, default)

    def pop(self, number: int, *default: typing.Any) -> typing.Any:
        return super().pop(number, self[number]) if number in self else super().pop(number, *default)

    def popitem(self) -> tuple[int, str]:
        number, known = super().popitem()
        return number, known or self._compute(number)

    def items(self) -> collections.abc.ItemsView[int, str]:  # type: ignore[override]
        return collections.abc.ItemsView(self)

    def values(self) -> collections.abc.ValuesView[str]:  # type: ignore[override]
        return collections.abc.ValuesView(self)

    def copy(self) -> dict[int, str]:
        return dict(self)

    def __eq__(self, other: object) -> bool:
        return dict(self) == other

    def __ne__(self, other: object) -> bool:
        return dict(self) != other

    def __or__(self, other: typing.Any) -> typing.Any:
        return dict(self) | other

    def __ror__(self, other: typing.Any) -> typing.Any:
        return other | dict(self)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce_ex__(self, protocol: typing.Any) -> tuple[typing.Any, ...]:
        return dict, (dict(self),)
