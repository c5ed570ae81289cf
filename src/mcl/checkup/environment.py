"""Versions of what mcl needs, and the extras that are there."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mcl.bench.tables import Table
from mcl.checkup.finding import Finding

COLUMNS = {"what": ("package", "{}"), "found": ("found", "{}"), "needs": ("needs", "{}")}


def check_environment() -> Finding:
    """Installed versions against what mcl's own metadata asks for."""
    try:
        mcl = metadata.distribution("mcl")
    except metadata.PackageNotFoundError:
        table = Table("Environment", COLUMNS, [{"what": "python", "found": platform.python_version()}])
        return Finding(
            "environment", table, "", ["mcl is not installed, so what it needs is not known: pip install ."]
        )
    needed = [Requirement(text) for text in mcl.requires or []]
    python = SpecifierSet(mcl.metadata.get("Requires-Python") or "")
    rows = [
        {"what": "mcl", "found": mcl.version},
        {"what": "python", "found": platform.python_version(), "needs": str(python)},
    ]
    warnings = []
    for requirement in (r for r in needed if not extras_of(r)):
        found = version_of(requirement.name)
        rows.append({"what": requirement.name, "found": found, "needs": str(requirement.specifier)})
        if not satisfies(requirement, found):
            warnings.append(
                f"{requirement.name} is {found or 'missing'}, mcl needs {requirement.specifier}: "
                f"pip install '{requirement.name}{requirement.specifier}'"
            )
    rows += extra_rows(needed)
    versions = {row["what"]: row["found"] for row in rows}
    return Finding(
        "environment", Table("Environment", COLUMNS, rows), "all packages that mcl needs are there", warnings,
        {"versions": versions},
    )  # fmt: skip


def extra_rows(needed: Iterable[Requirement]) -> list[dict[str, str]]:
    """A row for each extra: present, or what is missing of it and how to get it."""
    groups: dict[str, list[Requirement]] = defaultdict(list)
    for requirement in needed:
        for extra in extras_of(requirement):
            groups[extra].append(requirement)
    rows = []
    for extra, requirements in sorted(groups.items()):
        missing = [r.name for r in requirements if not satisfies(r, version_of(r.name))]
        found = f"missing: {', '.join(missing)}" if missing else "present"
        rows.append(
            {
                "what": f"extra {extra}",
                "found": found,
                "needs": f"pip install 'mcl[{extra}]'" if missing else None,
            }
        )
    return rows


def extras_of(requirement: Requirement) -> list[str]:
    """Names of the extras that ask for a package; none for one that is always needed."""
    if requirement.marker is None:
        return []
    provided = metadata.distribution("mcl").metadata.get_all("Provides-Extra") or []
    return [
        e
        for e in provided
        if requirement.marker.evaluate({"extra": e}) and not requirement.marker.evaluate({"extra": ""})
    ]


def version_of(name: str) -> str | None:
    """Installed version, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def satisfies(requirement: Requirement, found: str | None) -> bool:
    """Whether a version is one that is asked for (``2.13.0+cpu`` is ``2.13.0``)."""
    return found is not None and requirement.specifier.contains(found, prereleases=True)
