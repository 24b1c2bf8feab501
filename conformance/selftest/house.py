"""What the self-test needs of a protocol: its reference, its faults, and what the suite is told of a server."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Callable

from conformance.core.plugin import Options, Suite
from conformance.selftest.fault import Benign, Fault
from conformance.selftest.web.server import WebServer


@dataclass(frozen=True)
class Examples:
    """Cases for the proofs of the suite's own manners: faults by id, and the checks that catch them."""

    fault: str  # caught by one check that sends no secret
    check: str
    secret_fault: str  # caught by one check that sends the secret
    secret_check: str
    secret_select: tuple[str, ...]  # checks that send secrets, right and wrong ones
    curled: tuple[str, ...]  # faults whose curl lines are run
    optional: tuple[str, str] = ("", "")  # a capability, and its checks


def _modules(package: str) -> Iterator[tuple[str, object]]:
    folder = importlib.import_module(package)
    for name in sorted(name for _, name, _ in pkgutil.iter_modules(folder.__path__)):
        yield name, importlib.import_module(f"{package}.{name}")


@dataclass(frozen=True)
class House:
    """One protocol in the self-test. The faults and variations of the shared server are its own too."""

    suite: Suite
    reference: type[WebServer]
    made: Callable[[type[WebServer], Path, bool], WebServer]  # its files below a folder; whether it outlives a kill
    told: Callable[[int, Path], Options]
    banner: str
    smoke: tuple[str, ...]  # checks that run against each fault beside those of its clause
    apart: tuple[str, ...]  # checks that only a server with a lever can pass
    slow: tuple[str, ...]  # clauses whose faults take longest
    examples: Examples

    @property
    def name(self) -> str:
        return self.suite.spec.protocol

    def _kind(self, kind: type[WebServer]) -> type[WebServer]:
        """A fault of the shared server becomes one of this protocol's."""
        if issubclass(kind, self.reference):
            return kind
        return type(kind.__name__, (kind, self.reference), {"__module__": kind.__module__, "__doc__": kind.__doc__})

    @cached_property
    def faults(self) -> dict[str, Fault]:
        """All faults by id."""
        found: dict[str, Fault] = {}
        for package in (self.name, "web"):
            for name, module in _modules(f"conformance.selftest.{package}.faults"):
                fault = getattr(module, "FAULT", None)
                if not isinstance(fault, Fault):
                    raise ValueError(f"{package}/faults/{name}.py has no FAULT")
                if package == self.name or fault.clause in self.suite.spec.clauses:
                    found[name] = replace(fault, server=self._kind(fault.server))
        return found

    @cached_property
    def benign(self) -> dict[str, Benign]:
        """All benign variations by id."""
        found: dict[str, Benign] = {}
        for package in (self.name, "web"):
            for name, module in _modules(f"conformance.selftest.{package}.benign"):
                variation = getattr(module, "BENIGN", None)
                if not isinstance(variation, Benign):
                    raise ValueError(f"{package}/benign/{name}.py has no BENIGN")
                found[name] = replace(variation, server=self._kind(variation.server))
        return found

    @cached_property
    def by_clause(self) -> dict[str, list[str]]:
        """The ids of the faults of each clause."""
        table: dict[str, list[str]] = {}
        for name, fault in self.faults.items():
            table.setdefault(fault.clause, []).append(name)
        return table
