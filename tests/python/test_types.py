"""What type checkers and editors are told: words, overloads, protocols and docstrings."""

from __future__ import annotations

import ast
import inspect
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import backy
import backy.errors
import backy.protocols
from backy import Archive, _backy
from conftest import CHECKOUT, Made

PACKAGE = CHECKOUT / "backy-py/python/backy"
STUB = ast.parse((PACKAGE / "_backy.pyi").read_text())


def literals() -> dict[str, set[str]]:
    """The words of each Literal that has a name, in the stub and in errors.py."""
    found = {}
    for node in (*ast.walk(STUB), *ast.walk(ast.parse((PACKAGE / "errors.py").read_text()))):
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        target = targets[0]
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Subscript) and "Literal" in ast.unparse(value.value):
            words = ast.literal_eval(value.slice)
            assert len(set(words)) == len(words)
            found[target.id.strip("_")] = set(words)
    return found


def test_literals_have_the_words_of_the_engine() -> None:
    """Neither more nor fewer: the lists are those that the engine uses itself."""
    words = {name: set(known) for name, known in _backy._words().items()}
    assert len(words) == 11
    # That of an error that backy has not raised.
    words["ErrorKind"].add(backy.BackyError.kind)
    found = literals()
    # Its test is the next.
    found.pop("StepKind")
    assert found == words
    assert set(backy.errors._CLASSES) == words["ErrorKind"] - {"error"}


def test_no_property_that_is_one_of_a_few_words_is_any_text() -> None:
    """level, kind, phase and so on are typed as the words that they can be."""
    typed = {}
    for node in STUB.body:
        for member in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(member, ast.FunctionDef) and member.returns is not None:
                typed[node.name, member.name] = ast.unparse(member.returns)  # type: ignore[attr-defined]
    words = {"level", "phase", "target_kind", "operation", "result", "step", "kind"}
    wide = {at for at, returned in typed.items() if at[1] in words and not returned.startswith("_")}
    # Free text: what blkid calls a file system, and what a manifest says of a source.
    assert wide == {("TargetContent", "kind"), ("SourceIdentity", "kind")}


def test_steps_of_every_kind_can_be_read(made: Made) -> None:
    uuid = Archive(made.path).revisions[0].uuid
    fields: dict[str, Any] = {"revisions": [uuid], "revision": uuid, "into": uuid, "to": uuid, "reason": "r"}
    for kind in literals()["StepKind"]:
        assert backy.Step.from_dict({"step": kind, **fields}).step == kind
    with pytest.raises(ValueError, match="remove.*merge.*roll-back.*standalone") as raised:
        backy.Step.from_dict({"step": "dance", **fields})
    named = str(raised.value).split("expected one of ")[1]
    assert set(named.replace("`", "").split(", ")) == literals()["StepKind"]


def test_words_in_the_documents_are_those_of_the_literals() -> None:
    text = (CHECKOUT / "doc/scripting.md").read_text()
    for kind in literals()["ProblemKind"]:
        assert f"`{kind}`" in text, kind


def test_the_docstrings_of_the_stub_are_those_of_the_module() -> None:
    """So that an editor shows what help() shows."""
    command: list[str | Path] = [sys.executable, CHECKOUT / "backy-py/make-stubs", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_everything_public_in_the_stub_has_a_docstring() -> None:
    """Every class, method and property, in every overload."""
    without = []
    for node in ast.walk(STUB):
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            without.append(f"{node.name}, line {node.lineno}")
    assert not without


def test_every_parameter_is_described_where_it_is_hovered_over() -> None:
    without = []
    calls: list[tuple[str, Any]] = [("check", backy.check), ("run", backy.run), ("unmount", backy.Mount.unmount)]
    calls += [(name, getattr(Archive, name)) for name in vars(Archive) if not name.startswith("_")]
    for name, call in calls:
        if not callable(call):
            continue
        for parameter in inspect.signature(call).parameters:
            told = any(f"`{parameter}{end}" in call.__doc__ for end in "`=")
            if parameter != "self" and not told:
                without.append(f"{name}: {parameter}")
    assert {"`path`", "`trust`"} <= set(re.findall("`[a-z]+`", Archive.__doc__ or ""))
    assert not without


CHECKED = """
from __future__ import annotations

from typing import IO, BinaryIO, Literal

import backy


class Disk:
    @property
    def size(self) -> int:
        return 5

    def readinto_at(self, offset: int, buffer: memoryview, /) -> int:
        return 0


def binary(file: BinaryIO) -> bytes:
    return file.read(5)


def file_of_bytes(file: IO[bytes]) -> bytes:
    return file.read(5)


def colour(level: Literal["ok", "warning", "unknown", "critical"]) -> str:
    return level


def show(revision: backy.Revision | backy.RevisionStatus) -> None:
    print(revision.started, revision.size_bytes, revision.number, revision.timestamp, revision.size, revision.damaged)


def use(archive: backy.Archive, flag: bool, source: backy.Source, target: backy.Writable) -> None:
    binary(archive.open())
    file_of_bytes(archive.open())
    binary(archive.open(buffered=True))
    with archive.open() as image:
        image.read_at(0, 5)
    archive.backup(source=source)
    archive.backup(source=Disk())
    archive.restore(target)
    colour(archive.status().health.level)
    reveal_type(archive.open(buffered=flag))
    reveal_type(archive.backup(dry_run=flag))
    reveal_type(archive.maintenance(dry_run=flag))
    reveal_type(archive.rm(0, dry_run=flag))
    reveal_type(archive.rm(0, dry_run=True))
    reveal_type(archive.rm(0))
    reveal_type(backy.run("one", "two"))
    reveal_type(backy.run(fleet="fleet.toml", dry_run=True))
    reveal_type(backy.run(dry_run=flag))
    reveal_type(backy.Status.from_dict({}))
    show(archive.revisions[0])
    show(archive.status().revisions[0])
    # Each of these lines is an error.
    archive.status().health.level == "fine"  # 1
    archive.backup(source=5)  # 2
    archive.restore(5)  # 3
    archive.scrub(budget=30)  # 4
    archive.open("0").write_at  # 5
"""

REVEALED = [
    "RevisionFile | BufferedReader",
    "BackupReport | BackupPlan | None",
    "MaintenanceReport | MaintenancePlan",
    "MaintenanceReport | MaintenancePlan",
    "MaintenancePlan",
    "MaintenanceReport",
    "FleetReport",
    "FleetPlan",
    "FleetReport | FleetPlan",
    "Status",
]


def test_a_type_checker_sees_all_names(tmp_path: Path) -> None:
    """A flag that is only known at run time gives either; words are words; a revision is a binary file."""
    script = tmp_path / "script.py"
    script.write_text(CHECKED)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    lines = done.stdout.splitlines()
    revealed = [line.split('"')[1] for line in lines if "Revealed type" in line]
    for found, expected in zip(revealed, REVEALED):
        short = [part.split("[")[0].split(".")[-1] for part in found.split(" | ")]
        assert short == expected.split(" | ")
    assert len(revealed) == len(REVEALED)
    source = CHECKED.splitlines()
    wrong = {source[int(line.split(":")[1]) - 1].partition("# ")[2] for line in lines if ": error:" in line}
    assert wrong == {"1", "2", "3", "4", "5"}, done.stdout


def test_sources_and_targets_are_recognised_at_run_time() -> None:
    class Disk:
        size = 5

        def readinto_at(self, offset: int, buffer: memoryview, /) -> int:
            return 0

    assert isinstance(Disk(), backy.Source)
    assert not isinstance(object(), backy.Source)
    assert isinstance(io.BytesIO(), backy.Writable)
    assert not isinstance("text", backy.Writable)
    assert backy.Source is backy.protocols.Source
    assert {"Source", "Writable"} <= set(backy.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Sauce'"):
        backy.Sauce  # noqa: B018


def test_importing_backy_imports_little(made: Made) -> None:
    """Nothing that takes longer than backy itself, as long as nobody asks for it."""
    heavy = ("typing", "uuid", "pathlib", "json", "ctypes", "subprocess", "logging")
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; before = set(sys.modules); import backy;"
        f"print([m for m in {heavy} if m in set(sys.modules) - before])"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
