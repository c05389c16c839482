"""What pip knows of the module, and that it does not work in part with the files of another distribution."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

import backy
from backy import _alone

NAME = "backy-disk"
PACKAGE = Path(backy.__file__).parent
PUBLIC = {"backup", "errors", "io", "protocols", "revision"}


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Python with the packages of a folder before those of the environment, and a folder of its own."""
    away = folder / "away"
    away.mkdir(exist_ok=True)
    # By name rather than PYTHONPATH, which whoever runs the tests may have set.
    start = f"import sys; sys.path.insert(0, {str(folder)!r}); "
    program = [sys.executable, "-S", "-c", start + words[0], *words[1:]]
    return subprocess.run(program, cwd=away, capture_output=True, text=True, timeout=60, check=False)


def run_module(module: str) -> str:
    return f"import runpy; sys.argv = ['backy', '--version']; runpy.run_module({module!r}, run_name='__main__')"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of what is installed, as in a site-packages of its own."""
    shutil.copytree(PACKAGE, tmp_path / "backy", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for library in PACKAGE.glob("*.so"):
        (tmp_path / "backy" / library.name).symlink_to(library)
    return tmp_path


def theirs(folder: Path, version: str = "2.5.1") -> None:
    """What pip knows of the other one."""
    info = folder / f"backy-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: backy\nVersion: {version}\n")
    (info / "RECORD").write_text("backy/__init__.py,,\nbacky/main.py,,\nbacky/backup.py,,\n")


def over_theirs(folder: Path) -> None:
    """The other one was installed first: of its files those are left that this one lacks."""
    (folder / "backy/main.py").write_text("print('theirs')\n")
    (folder / "backy/sources").mkdir()
    theirs(folder)


def under_theirs(folder: Path) -> None:
    """The other one was installed last, over the files that both have."""
    for name in ("__init__", "main", "backup", "revision"):
        (folder / f"backy/{name}.py").write_text("Archive = 'theirs'\n")
    theirs(folder)


def without_theirs(folder: Path) -> None:
    """The other one was installed first and uninstalled last: the files that both have are gone."""
    for name in ("__init__", "backup", "revision"):
        (folder / f"backy/{name}.py").unlink()


def a_package_over_a_module(folder: Path) -> None:
    """Python prefers a folder to a module of the same name."""
    (folder / "backy/io").mkdir()
    (folder / "backy/io/__init__.py").write_text("")


def assert_refused(folder: Path, program: str, *words: str) -> None:
    done = python(folder, program)
    assert done.returncode != 0, done.stdout
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"(\S+: Error while finding module .*)?\(?ImportError: ", last), done.stderr
    for word in (str(folder / "backy"), NAME, "pip uninstall", *words):
        assert word in last, last


def test_alone_it_is_imported_and_run(folder: Path) -> None:
    done = python(folder, "import backy; print(backy.__file__); " + run_module("backy"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(folder / "backy/__init__.py")
    assert done.stdout.splitlines()[1].startswith("backy ")


@pytest.mark.parametrize("program", ["import backy", "import backy.main", "from backy.backup import Backup", "run"])
def test_over_the_files_of_another_distribution_nothing_is_imported(folder: Path, program: str) -> None:
    over_theirs(folder)
    program = run_module("backy") if program == "run" else program
    assert_refused(folder, program, "backy 2.5.1", "main.py, sources", "pip uninstall backy backy-disk")


@pytest.mark.parametrize("program", ["from backy import errors", "import backy.io", "import backy._backy", "run"])
@pytest.mark.parametrize("mixed", [under_theirs, without_theirs])
def test_under_the_files_of_another_distribution_nothing_of_it_is_imported(
    folder: Path, mixed: Callable[[Path], None], program: str
) -> None:
    mixed(folder)
    program = run_module("backy") if program == "run" else program
    assert_refused(folder, program, "__init__.py", "pip uninstall backy backy-disk")


def test_a_package_in_the_place_of_a_module_is_not_imported(folder: Path) -> None:
    a_package_over_a_module(folder)
    assert_refused(folder, "import backy", "(io)", "pip uninstall backy backy-disk")


def test_files_that_python_does_not_import_do_no_harm(folder: Path) -> None:
    """An editor's, a linter's, and a patch by the name of a module that nobody but this one has."""
    for name in ("main.py~", "notes.txt", ".main.py.swp", "_local.py", "main.pyi"):
        (folder / "backy" / name).write_text("")
    (folder / "backy/.mypy_cache").mkdir()
    done = python(folder, "import backy; print(backy.__distribution__)")
    assert (done.stdout.strip(), done.stderr) == (NAME, "")


def test_the_public_modules_are_those_that_may_be_there() -> None:
    """Every other one of ours begins with an underscore: by that they are told from those of others."""
    names = {file.stem for file in PACKAGE.glob("*.py") if not file.name.startswith("_")}
    assert names == _alone.PUBLIC == PUBLIC
    assert not [entry for entry in PACKAGE.iterdir() if entry.is_dir() and not entry.name.startswith("_")]


def test_pip_knows_it_by_a_name_of_its_own() -> None:
    assert metadata.version(NAME) == backy.__version__
    assert backy.__distribution__ == NAME == _alone.DISTRIBUTION
    commands = [each for each in metadata.distribution(NAME).entry_points if each.group == "console_scripts"]
    assert [(each.name, each.value) for each in commands] == [("backy", "backy.__main__:main")]


def test_its_metadata_are_complete() -> None:
    about = metadata.metadata(NAME)
    assert about["License-Expression"] == "GPL-3.0-or-later"
    assert about["License-File"] == "LICENSE"
    assert about["Requires-Python"] == ">=3.9"
    assert about["Author"]
    assert about["Maintainer"]
    assert about["Keywords"]
    classifiers = about.get_all("Classifier") or []
    for version in ("3.9", "3.10", "3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {version}" in classifiers
    files = metadata.files(NAME) or []
    licence = next(file for file in files if file.name == "LICENSE")
    assert "GNU GENERAL PUBLIC LICENSE" in licence.read_text()


def test_the_description_needs_no_checkout() -> None:
    """No link leads to a file beside it, where the index has none."""
    about = metadata.metadata(NAME)
    text = metadata.distribution(NAME).read_text("METADATA")
    assert text
    description = text.split("\n\n", 1)[1]
    assert "pip install backy-disk" in description
    links = re.findall(r"\]\(([^)]*)\)|^\[.*\]: (\S+)|(?:href|src)=[\"']([^\"']*)", description, re.MULTILINE)
    assert [link for found in links for link in found if link and not link.startswith("https://")] == []
    for value in about.get_all("Project-URL") or []:
        assert value.partition(", ")[2].startswith("https://"), value
