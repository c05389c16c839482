"""What is wrong with an argument is told by its name, and a path is what `pathlib` takes for one."""

from __future__ import annotations

import inspect
import os
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import backy
from backy import Archive
from conftest import Made

# What every call needs besides the argument that is wrong.
NEEDED: dict[str, Any] = {
    "path": "/nonexistent/archive",
    "old": "/nonexistent/old",
    "origin": "/nonexistent/origin",
    "to": "/nonexistent/copy",
    "target": "/nonexistent/target",
    "mountpoint": "/nonexistent/mountpoint",
    "revision": 0,
    "revisions": "all",
    "fields": {},
}
# Type checkers know better.
RUN: Any = backy.run
# Its tests are those of calls.
ELSEWHERE = {"progress"}


def opened(path: Any, *, trust: Any = False) -> Archive:
    """Python 3.9 knows no signatures of classes that are not written in Python."""
    return Archive(path, trust=trust)


def calls(archive: Archive) -> dict[str, Callable[..., Any]]:
    """Everything public that can be called with arguments."""
    methods = {
        f"Archive.{name}": getattr(archive, name)
        for name, kind in vars(Archive).items()
        if not name.startswith("_") and callable(getattr(archive, name, None)) and kind is not None
    }
    return {
        **methods,
        "Archive": opened,
        "check": backy.check,
        "pull": backy.pull,
        "run": backy.run,
        "Extent.from_dict": backy.Extent.from_dict,
    }


def parameters(archive: Archive) -> list[tuple[str, Callable[..., Any], inspect.Parameter]]:
    return [
        (name, call, parameter)
        for name, call in calls(archive).items()
        for parameter in inspect.signature(call).parameters.values()
        if parameter.name not in ELSEWHERE
    ]


def attempt(call: Callable[..., Any], parameter: inspect.Parameter, value: object) -> Any:
    needed = {
        name: NEEDED[name]
        for name, each in inspect.signature(call).parameters.items()
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    }
    if parameter.kind is parameter.VAR_POSITIONAL:
        return call(value)
    return call(**{**needed, parameter.name: value})


def test_a_type_error_names_the_argument(made: Made) -> None:
    """Of every parameter of every call, in the text itself: notes are newer than Python 3.9, and str() has none."""
    archive = Archive(made.path)
    tried = parameters(archive)
    assert len(tried) > 60
    wrong = []
    for name, call, parameter in tried:
        with pytest.raises((TypeError, ValueError)) as raised:
            attempt(call, parameter, object())
        if parameter.name not in str(raised.value) or not isinstance(raised.value, TypeError):
            wrong.append(f"{name}({parameter.name}=): {raised.value!r}")
    assert not wrong, "\n".join(wrong)


WRONG_VALUES: list[tuple[str, Callable[[Archive], Any], str]] = [
    ("block_size", lambda a: Archive.init(a.path.parent / "new", block_size=5), "found 5, expected a power of two"),
    ("block_size", lambda a: Archive.init(a.path.parent / "new", block_size=-1), ""),
    ("include", lambda a: Archive.init(a.path.parent / "new", include=[""]), "the path is empty"),
    ("keep", lambda a: a.maintenance(keep=-1), ""),
    ("keep", lambda a: a.maintenance(keep=2**40), ""),
    ("level", lambda a: a.export(a.path.parent / "new", level=20), "found 20, expected 1 to 19"),
    ("cache", lambda a: a.mount(a.path.parent, cache=-1), ""),
    ("gid", lambda a: a.mount(a.path.parent, gid=-1), ""),
    ("wait", lambda a: a.scrub(wait=-1), "found -1 seconds"),
    ("wait", lambda a: a.scrub(wait=float("nan")), "seconds"),
    ("wait", lambda a: a.scrub(wait="soon"), "soon"),
    ("timeout", lambda a: a.drill(command=["true"], timeout=timedelta(seconds=-1)), "found -1 seconds"),
    ("timeout", lambda a: a.drill(command=["true"], timeout=0), "found 0 seconds"),
    ("timeout", lambda a: a.drill(command=["true"], timeout="soon"), "soon"),
    ("budget", lambda a: a.scrub(budget="much"), "much"),
    ("budget", lambda a: a.scrub(budget=timedelta(0)), "no time"),
    ("limit_rate", lambda a: a.backup(limit_rate="fast"), "fast"),
    ("tags", lambda a: a.backup(tags=["not a tag"]), "not a tag"),
    ("as_", lambda a: a.backup(as_=["not a tag"]), "not a tag"),
    ("remove", lambda a: a.tag(0, remove=["not a tag"]), "not a tag"),
    ("jobs", lambda a: backy.run(a.path, jobs=0), ""),
    ("jobs", lambda a: backy.run(a.path, jobs=-1), ""),
    ("until", lambda a: backy.run(a.path, until="24:00"), "'24:00' is no time of day"),
    ("revision", lambda a: a.find(-1), "-1 names no revision"),
    ("revisions", lambda a: a.select("a..b"), "'a' names no revision"),
]


@pytest.mark.parametrize(("name", "call", "text"), WRONG_VALUES)
def test_a_value_error_names_the_argument(name: str, call: Callable[[Archive], Any], text: str, made: Made) -> None:
    with pytest.raises(backy.SpecificationError) as raised:
        call(Archive(made.path))
    assert str(raised.value).startswith(f"{name}: ") or name == "revision"
    assert name in str(raised.value)
    assert text in str(raised.value)


WRONG_TYPES: list[tuple[str, Callable[[Any], Any]]] = [
    ("budget", lambda a: a.scrub(budget=30)),
    ("budget", lambda a: a.scrub(budget=True)),
    ("wait", lambda a: a.scrub(wait=True)),
    ("timeout", lambda a: a.drill(command=["true"], timeout=[30])),
    ("include", lambda a: Archive.init(a.path, include="standard.toml")),
    ("tags", lambda a: a.backup(tags="manual")),
    ("tags", lambda a: a.backup(tags=[5])),
    ("force", lambda a: a.backup(force=None)),
    ("force", lambda a: a.backup(force="no")),
    ("limit_rate", lambda a: a.backup(limit_rate=1.5)),
    ("revision", lambda a: a.find(True)),
    ("revisions", lambda a: a.rm(True)),
    ("revisions", lambda a: a.rm([True])),
    ("cache", lambda a: a.mount(a.path, cache=1.5)),
    ("gid", lambda a: a.mount(a.path, gid=1.5)),
    ("jobs", lambda a: RUN(a.path, jobs=1.5)),
    ("until", lambda a: RUN(a.path, until=6)),
]


@pytest.mark.parametrize(("name", "call"), WRONG_TYPES)
def test_a_likely_mistake_is_a_type_error(name: str, call: Callable[[Any], Any], made: Made) -> None:
    """A number is no budget: it could be seconds, a share or bytes. True is not revision 1, a str no list of tags."""
    archive = Archive(made.path)
    before = archive.revisions
    with pytest.raises(TypeError, match=f"^{name}"):
        call(archive)
    assert archive.revisions == before


def test_an_exception_of_an_argument_is_raised_unchanged(made: Made) -> None:
    class Mine(ValueError):
        pass

    def tags() -> Any:
        raise Mine("my own")
        yield

    class Broken:
        def __fspath__(self) -> str:
            raise Mine("my own")

    archive = Archive(made.path)
    for call in (lambda: archive.backup(tags=tags()), lambda: archive.select(tags()), lambda: Archive(Broken())):
        with pytest.raises(Mine) as raised:
            call()
        assert str(raised.value) == "my own"


def test_a_uuid_names_a_revision_wherever_one_is_named(copy: Made, tmp_path: Path) -> None:
    """Also one of a subclass; and so does a revision of a status."""

    class Own(uuid.UUID):
        pass

    archive = Archive(copy.path)
    newest, middle, oldest = archive.revisions
    for kind in (uuid.UUID, Own):
        name = kind(middle.uuid)
        assert archive.find(name) == archive.find(middle)
        assert archive.select([name, newest]) == [newest, middle]
        assert [r.uuid for r in archive.status(name).revisions] == [middle.uuid]
        with archive.open(name) as image:
            assert image.revision == middle.uuid
        assert "new" in archive.tag(name, ["new"])
        assert archive.restore(tmp_path / f"{kind.__name__}", name).revision == middle.uuid
        assert archive.drill(name).revision == middle.uuid
        assert archive.export(tmp_path / f"{kind.__name__}.qcow2", name).revision == middle.uuid
        assert archive.scrub(name, check_only=True).is_clean
    with pytest.raises(backy.NoSuchRevisionError):
        archive.find(uuid.uuid4())
    archive.rm(uuid.UUID(oldest.uuid), force=True)
    assert archive.select(archive.status().revisions) == [newest, middle]


def test_times_are_seconds_timedeltas_or_text(copy: Made) -> None:
    archive = Archive(copy.path)
    for time in (1, 1.5, "10s", timedelta(seconds=10)):
        assert archive.drill(command=["true"], timeout=time, wait=time).passed
        assert archive.tag(0, wait=time)
    late = archive.drill(command=["sleep", "60"], timeout=timedelta(milliseconds=200))
    assert not late.passed
    assert late.seconds < 30
    report = archive.scrub(budget=timedelta(minutes=5))
    assert report.coverage.verified_share == 1.0
    assert archive.scrub(budget=timedelta(microseconds=1)).read_bytes <= report.read_bytes


class Like:
    """An os.PathLike of text or bytes."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        return self.path


def test_paths_are_str_or_path(tmp_path: Path) -> None:
    """Text, pathlib.Path and any other os.PathLike; wherever a path is taken."""
    source = tmp_path / "source"
    source.write_bytes(bytes(100_000))
    kinds: list[Callable[[Path], Any]] = [str, Path, lambda path: Like(str(path))]
    for number, kind in enumerate(kinds):
        path: Callable[[str], Any] = lambda name, kind=kind: kind(tmp_path / name)  # type: ignore[misc] # noqa: E731
        archive = Archive.init(path(f"archive-{number}"), path("source"))
        assert archive.path == tmp_path / f"archive-{number}"
        assert archive.source == source
        assert Archive(path(f"archive-{number}")) == archive
        archive.backup(source=path("source"), force=True)
        target = tmp_path / f"target-{number}"
        assert archive.restore(path(target.name)).target == target
        assert archive.look_at_target(path(target.name)) is not None
        archive.restore(path(target.name), force=True, undo=path(f"undo-{number}"))
        assert archive.export(path(f"export-{number}")).file == tmp_path / f"export-{number}"
        assert archive.drill(command=["true"], dir=kind(tmp_path)).passed
        assert backy.check(path(f"archive-{number}")).archives[0].archive == archive.path


def path_arguments(archive: Archive, path: Any) -> dict[str, list[Callable[[], Any]]]:
    """Every call that takes a path, by the name of the argument."""
    return {
        "path": [
            lambda: Archive(path),
            lambda: Archive.init(path),
            lambda: Archive.rebuild(path),
            lambda: Archive.import_("/nonexistent", path),
            lambda: archive.export(path),
            lambda: backy.pull(path, "/nonexistent"),
        ],
        "source": [lambda: archive.backup(source=path, force=True), lambda: Archive.init("/nonexistent/x", path)],
        "target": [
            lambda: archive.restore(path),
            lambda: archive.look_at_target(path),
            lambda: archive.export_rbd_diff(path),
        ],
        "undo": [lambda: archive.restore("/nonexistent/x", undo=path)],
        "mountpoint": [lambda: archive.mount(path)],
        "dir": [lambda: archive.drill(command=["true"], dir=path)],
        "folders": [lambda: backy.check(path), lambda: backy.run(path)],
        "fleet": [lambda: backy.check(fleet=path), lambda: backy.run(fleet=path)],
        "old": [lambda: Archive.import_(path, "/nonexistent/x")],
        # An archive that exists may leave it to its config.
        "origin": [
            lambda: backy.pull("/nonexistent/x", path),
            *([lambda: archive.pull(path)] if path is not None else []),
        ],
        "to": [lambda: archive.push(path)],
    }


@pytest.mark.parametrize("path", [b"/tmp/x", Like(b"/tmp/x"), None, 5, 1.5, ["/tmp/x"]])
def test_bytes_and_numbers_are_no_paths(path: Any, made: Made) -> None:
    """As for pathlib; a number is no descriptor either."""
    for name, each in path_arguments(Archive(made.path), path).items():
        for call in each:
            if path is None and name in ("source", "undo", "dir", "fleet"):
                continue
            with pytest.raises(TypeError, match=f"^{name}: "):
                call()


@pytest.mark.parametrize("path", ["/tmp/a\0b", "", "/tmp/\ud800"])
def test_a_path_that_names_nothing_is_a_clear_error(path: str, made: Made) -> None:
    for name, each in path_arguments(Archive(made.path), path).items():
        for call in each:
            with pytest.raises(ValueError, match=f"^{name}: "):
                call()


def test_no_folder_is_made_that_is_called_tilde(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    archive = Archive(made.path)
    calls = (
        lambda: Archive.init("~/archive"),
        lambda: Archive.import_("/nonexistent", "~/archive"),
        lambda: backy.pull("~/archive", made.path),
        lambda: archive.push("~/archive"),
        lambda: archive.restore("target", undo="~/undo"),
    )
    for call in calls:
        with pytest.raises(ValueError, match="expanduser"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_no_utf_8_keeps_its_bytes(tmp_path: Path) -> None:
    """In every report that names one, also after a pickle; JSON has U+FFFD in its place, and stays UTF-8."""
    import pickle

    def odd(name: bytes) -> Path:
        return Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))

    source = odd(b"source\xe4")
    (tmp_path / "source").write_bytes(bytes(100_000))
    source.write_bytes(bytes(100_000))
    archive = Archive.init(odd(b"archive\xff"), tmp_path / "source")
    archive.backup(source=source)
    target = odd(b"target\xff")
    target.write_bytes(bytes(range(256)) * 400)
    look = archive.look_at_target(target)
    assert look is not None
    restored = archive.restore(target, force=True)
    (tmp_path / "other").write_bytes(bytes(range(256)) * 400)
    saved = archive.restore(tmp_path / "other", force=True, undo=odd(b"undo\xff"))
    host = backy.check(archive.path)
    exported = archive.export(odd(b"export\xff"))
    shown: list[tuple[Any, Callable[[Any], Path], Path]] = [
        (archive, lambda a: a.path, odd(b"archive\xff")),
        (archive.status(), lambda r: r.archive, odd(b"archive\xff")),
        (host, lambda r: r.archives[0].archive, odd(b"archive\xff")),
        (host.archives[0], lambda r: r.status.archive, odd(b"archive\xff")),
        (look, lambda r: r.target, target),
        (restored, lambda r: r.target, target),
        (saved, lambda r: r.undo.archive, odd(b"undo\xff")),
        (saved.undo, lambda r: r.archive, odd(b"undo\xff")),
        (exported, lambda r: r.file, odd(b"export\xff")),
    ]
    assert archive.find().exists()
    for value, path, expected in shown:
        for again in (value, pickle.loads(pickle.dumps(value))):
            assert os.fsencode(path(again)) == os.fsencode(expected)
            assert path(again).exists()
            assert again == value
        if isinstance(value, backy.Report):
            text = str(value.to_dict())
            assert "\ufffd" in text
            text.encode()
            assert value.from_dict(value.to_dict()) != value
            assert repr(expected) in repr(value) or value in (host, saved)
    other = archive.export(odd(b"export\xfe"))
    assert other.to_dict()["file"] == exported.to_dict()["file"]
    with pytest.raises(backy.BackyError) as raised:
        Archive(odd(b"none\xff"))
    assert raised.value.path == odd(b"none\xff")
    assert isinstance(raised.value, OSError)
    assert raised.value.filename == str(odd(b"none\xff"))
