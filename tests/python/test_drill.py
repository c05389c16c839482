"""What a callable says of a restored revision: only None and what is true let a drill pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from backy import Archive
from conftest import Made, content


class Secret:
    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "Secret(the key)"


class Text(str):
    def __repr__(self) -> str:
        return "the key"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (False, "returned False"),
        (0, "returned 0"),
        (0.0, "returned 0.0"),
        ("", "returned ''"),
        (b"", "returned b''"),
        ([], "returned []"),
        ({}, "returned {}"),
        (numpy.False_, "a false object of numpy.bool"),
        (numpy.zeros(1), "a false object of numpy.ndarray"),
        (Secret(), "a false object of test_drill.Secret"),
        (Text(), "a false object of test_drill.Text"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_callable_that_returns_false_fails_the_drill(answer: Any, text: str, copy: Made) -> None:
    """The message says what came back, and shows nothing that may be secret; status has it as well."""
    archive = Archive(copy.path)
    report = archive.drill(0, command=lambda _path: answer)
    assert not report.passed
    assert text in report.message
    assert "key" not in report.message
    assert archive.status().drill == report


@pytest.mark.parametrize("answer", [None, True, 1, "all right", [0], numpy.True_])
def test_a_callable_that_returns_none_or_true_passes_the_drill(answer: Any, copy: Made) -> None:
    report = Archive(copy.path).drill(0, command=lambda _path: answer)
    assert report.passed


def test_a_comparison_by_numpy_decides(copy: Made) -> None:
    """The result of (a == b).all() is no bool of Python's."""
    expected = numpy.frombuffer(copy.sources[0], "u1")
    archive = Archive(copy.path)
    assert archive.drill(0, command=lambda path: (numpy.fromfile(path, "u1") == expected).all()).passed
    assert not archive.drill(0, command=lambda path: (numpy.fromfile(path, "u1") != expected).all()).passed


def test_a_callable_that_would_not_run_is_refused(copy: Made) -> None:
    """Before anything begins when it shows, and it never passes: coroutines and generators are true."""

    async def coroutine(path: Path) -> bool:
        return False

    def generator(path: Path) -> Iterator[bool]:
        yield False

    archive, before = Archive(copy.path), content(copy.path)
    for command in (coroutine, generator):
        with pytest.raises(TypeError, match="plain function"):
            archive.drill(0, command=command)
        with pytest.raises(TypeError, match="has not run"):
            archive.drill(0, command=lambda path, command=command: command(path))  # type: ignore[misc]
    assert content(copy.path) == before


def test_words_of_a_command(copy: Made) -> None:
    """Text is no list of words, neither are bytes; a path and bytes are words as they are."""
    archive, before = Archive(copy.path), content(copy.path)
    all_wrong: list[Any] = ["true", b"true", 5, []]
    for wrong in all_wrong:
        with pytest.raises((TypeError, ValueError)):
            archive.drill(0, command=wrong)
    assert content(copy.path) == before
    assert archive.drill(0, command=[Path("/bin/sh"), b"-c", "test -e {}"]).passed  # type: ignore[list-item]


def test_an_exception_of_a_callable_is_raised(copy: Made) -> None:
    """And the file that it was given is gone."""
    seen: list[Path] = []

    def check(path: Path) -> None:
        seen.append(path)
        raise AssertionError("not what I want")

    with pytest.raises(AssertionError, match="what I want"):
        Archive(copy.path).drill(0, command=check)
    assert not seen[0].exists()
