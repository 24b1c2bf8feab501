"""The protocol as data: clauses read from spec/*.toml, and the page generated from them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Optional

from conformance.core.verdict import Level

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent.parent / "spec"


@dataclass(frozen=True)
class Clause:
    """One testable sentence. It has checks, or the reason why it cannot be seen from outside."""

    id: str
    level: Level
    section: str
    sentence: str
    checks: tuple[str, ...] = ()
    excluded: str = ""
    upstream: str = ""

    @property
    def page_id(self) -> str:
        """The id on the protocol page that this clause sharpens: `UP-08a` -> `UP-8`."""
        group, _, number = self.id.partition("-")
        return f"{group}-{int(number.rstrip('abcdefghijklmnopqrstuvwxyz'))}"


@dataclass(frozen=True)
class Spec:
    protocol: str
    title: str
    upstream: str  # the server that is deployed, whose deviations the clauses name
    clauses: dict[str, Clause]

    def of_check(self, slug: str) -> Optional[Clause]:
        return next((clause for clause in self.clauses.values() if slug in clause.checks), None)


def _clause(row: dict[str, Any]) -> Clause:
    known = {"id", "level", "section", "sentence", "checks", "excluded", "upstream"}
    if set(row) - known:
        raise ValueError(f"{row['id']}: unknown keys {sorted(set(row) - known)}")
    if bool(row.get("checks")) == bool(row.get("excluded")):
        raise ValueError(f"{row['id']}: needs either checks or the reason why it has none")
    values = {**row, "level": Level(row["level"]), "checks": tuple(row.get("checks", ()))}
    return Clause(**values)


def _read(path: Path) -> tuple[dict[str, Any], list[Clause]]:
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    return data, [_clause(row) for row in data["clause"]]


def _taken(wanted: dict[str, list[str]]) -> Iterator[Clause]:
    """Clauses of other protocols that hold here word for word: ids by protocol, * allowed. Raises ValueError."""
    for protocol, patterns in wanted.items():
        _, known = _read(FOLDER / f"{protocol}.toml")
        for pattern in patterns:
            found = [clause for clause in known if fnmatchcase(clause.id, pattern) and clause.checks]
            if not found:
                raise ValueError(f"{protocol} has no clause {pattern}")
            yield from (replace(clause, upstream="") for clause in found)


def load(path: Path) -> Spec:
    """Raises ValueError for an unknown key, a repeated id, or a clause with neither checks nor a reason."""
    data, own = _read(path)
    clauses: dict[str, Clause] = {}
    for clause in [*own, *_taken(data.get("taken", {}))]:
        if clause.id in clauses:
            raise ValueError(f"{path.name}: {clause.id} is there twice")
        clauses[clause.id] = clause
    return Spec(data["protocol"], data["title"], data["upstream"], clauses)


def frozen(name: str, protocol: str) -> dict[str, Level]:
    """A frozen requirement set: clause id -> level. Raises FileNotFoundError, ValueError for another protocol."""
    data = tomllib.loads((FOLDER / "frozen" / f"{name}.toml").read_text(encoding="utf-8"))
    if data["protocol"] != protocol:
        raise ValueError(f"the set {name} is one of the protocol {data['protocol']}")
    return {key: Level(level) for key, level in data["clauses"].items()}


def freeze(spec: Spec) -> str:
    """The text of a frozen set that holds all clauses of today."""
    lines = [f'protocol = "{spec.protocol}"', "", "[clauses]"]
    return "\n".join(lines + [f'"{clause.id}" = "{clause.level.value}"' for clause in spec.clauses.values()]) + "\n"


def _legend(spec: Spec) -> str:
    judged = sum(1 for clause in spec.clauses.values() if clause.checks)
    return (
        f"{len(spec.clauses)} clauses, {judged} of them judged from outside. Ids are never reused. **≠** marks what "
        f"{spec.upstream} does otherwise; it is a known deviation, never a reason to copy it."
    )


def _row(clause: Clause) -> str:
    rule = clause.sentence.replace("|", "\\|")
    if clause.upstream:
        rule += f" **≠** {clause.upstream}"
    checks = "<br>".join(f"`{slug}`" for slug in clause.checks) or f"*not judged: {clause.excluded}*"
    return f"| {clause.id} | {clause.level.value} | {rule} | {checks} |"


def page(spec: Spec) -> str:
    """PROTOCOL-….md: the human form of the table."""
    again = f"python -m conformance protocol --protocol {spec.protocol}"
    out = [f"<!-- Generated from conformance/spec by `{again}`; edit the tables. -->", ""]
    out += [f"# {spec.title}", "", _legend(spec), ""]
    section = ""
    for clause in spec.clauses.values():
        if clause.section != section:
            section = clause.section
            out += ["", f"## {section}", "", "| clause | level | rule | checks |", "|---|---|---|---|"]
        out.append(_row(clause))
    return "\n".join([*out, ""])
