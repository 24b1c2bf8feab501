"""What a faulty server is: one override of the reference, the clause it breaks, and a witness that it really does."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Callable

from conformance.kernelci.client import Client
from conformance.selftest.reference import Reference, Request

Witness = Callable[[Client], object]


@dataclass(frozen=True)
class Fault:
    """One single-fault server. Its id is the name of its file.

    `witness` observes the fault without the checks: what it gives differs from what it gives on the reference.
    `blast` names clauses (with wildcards) that this fault may break beside its own.
    """

    clause: str
    server: type[Reference]
    witness: Witness
    provenance: str
    blast: tuple[str, ...] = ()
    restarts: bool = False  # runs as a process of its own, with a lever


@dataclass(frozen=True)
class Benign:
    """A right server that is otherwise than the reference. `capabilities` are declared as an implementer would."""

    server: type[Reference]
    why: str
    capabilities: tuple[tuple[str, str], ...] = ()
    warns: tuple[str, ...] = ()  # SHOULD clauses it does not meet
    untestable: tuple[str, ...] = ()  # checks that find nothing to look at


def with_header(request: Request, name: str, value: str) -> Request:
    return request._replace(headers={**request.headers, name: value})


def without(request: Request, name: str) -> Request:
    return request._replace(headers={key: value for key, value in request.headers.items() if key != name})


def _modules(package: str) -> dict[str, object]:
    folder = importlib.import_module(package)
    names = [name for _, name, _ in pkgutil.iter_modules(folder.__path__)]
    return {name: importlib.import_module(f"{package}.{name}") for name in sorted(names)}


def faults() -> dict[str, Fault]:
    """All faults by id."""
    found: dict[str, Fault] = {}
    for name, module in _modules("conformance.selftest.faults").items():
        fault = getattr(module, "FAULT", None)
        if not isinstance(fault, Fault):
            raise ValueError(f"faults/{name}.py has no FAULT")
        found[name] = fault
    return found


def benign() -> dict[str, Benign]:
    """All benign variations by id."""
    found: dict[str, Benign] = {}
    for name, module in _modules("conformance.selftest.benign").items():
        variation = getattr(module, "BENIGN", None)
        if not isinstance(variation, Benign):
            raise ValueError(f"benign/{name}.py has no BENIGN")
        found[name] = variation
    return found


def by_clause() -> dict[str, list[str]]:
    """The ids of the faults of each clause."""
    table: dict[str, list[str]] = {}
    for name, fault in faults().items():
        table.setdefault(fault.clause, []).append(name)
    return table
