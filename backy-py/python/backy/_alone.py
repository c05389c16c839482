"""Refuses to work among the files of another distribution.

The package index has another program by the name `backy`, and pip puts its files into the same folder as these. Part of
one program that calls part of the other could do anything to an archive. Imported first by everything else here.
"""

from __future__ import annotations

import os
import sys

DISTRIBUTION = "backy-disk"
"""What pip knows these files by."""

PUBLIC = frozenset({"backup", "errors", "io", "protocols", "revision"})
"""The modules that others import. All the rest begin with an underscore."""


def _refuse_a_mixture(folder: str) -> None:
    strange = _strange(folder)
    package = sys.modules.get("backy")
    if getattr(package, "__distribution__", None) != DISTRIBUTION:
        # Also what is left when the other one is uninstalled: pip takes the files away that both have.
        there = os.path.exists(os.path.join(folder, "__init__.py"))
        strange.insert(0, "__init__.py" if there else "__init__.py is missing")
    if strange:
        whose = _others(folder)
        by = f"those of {' and '.join(whose)}" if whose else "those of another distribution"
        shown = ", ".join(strange[:3]) + (", ..." if len(strange) > 3 else "")
        names = " ".join(sorted({DISTRIBUTION, *(each.split()[0] for each in whose or ["backy"])}))
        raise ImportError(
            f"{folder}: the files of {DISTRIBUTION} are mixed with {by} ({shown}); "
            f"uninstall both, then install the one that you want: pip uninstall {names}; pip install {DISTRIBUTION}",
            name="backy",
            path=folder,
        )


def _strange(folder: str) -> list[str]:
    """Modules and packages in the folder that are not ours."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name, _, kind = entry.name.partition(".")
                if name.startswith("_") or not name.isidentifier():
                    continue
                is_module = kind == "py" or kind.endswith("so")
                if entry.is_dir() or (is_module and not (kind == "py" and name in PUBLIC)):
                    found.append(entry.name)
    except OSError:
        # In a zip file, or within one program with the interpreter: nobody installs anything there.
        return []
    return sorted(found)


def _others(folder: str) -> list[str]:
    """Names and versions of the other distributions that have files in the folder."""
    from importlib import metadata

    place, package = os.path.split(folder)
    found = set()
    for distribution in metadata.distributions(path=[place]):
        name = str(distribution.metadata["Name"])
        if name.lower().replace("_", "-").replace(".", "-") != DISTRIBUTION:
            files = distribution.files or []
            if any(file.parts[0] == package for file in files if file.parts):
                found.add(f"{name} {distribution.version}")
    return sorted(found)


_refuse_a_mixture(os.path.dirname(os.path.abspath(__file__)))
