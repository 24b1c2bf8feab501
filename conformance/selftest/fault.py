"""What a faulty server is: one override of a right one, the clause it breaks, and a witness that it really does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

from conformance.selftest.web.server import Request, WebServer

Witness = Callable[[Any], object]  # of the client of the protocol


@dataclass(frozen=True)
class Fault:
    """One single-fault server. Its id is the name of its file.

    `witness` observes the fault without the checks: what it gives differs from what it gives on the reference.
    `blast` names clauses (with wildcards) that this fault may break beside its own.
    """

    clause: str
    server: type[WebServer]
    witness: Witness
    provenance: str
    blast: tuple[str, ...] = ()
    restarts: bool = False  # runs as a process of its own, with a lever


@dataclass(frozen=True)
class Benign:
    """A right server that is otherwise than the reference. `capabilities` are declared as an implementer would."""

    server: type[WebServer]
    why: str
    capabilities: tuple[tuple[str, str], ...] = ()
    warns: tuple[str, ...] = ()  # SHOULD clauses it does not meet
    untestable: tuple[str, ...] = ()  # checks that find nothing to look at


def with_header(request: Request, name: str, value: str) -> Request:
    return request._replace(headers={**request.headers, name: value})


def without(request: Request, name: str) -> Request:
    return request._replace(headers={key: value for key, value in request.headers.items() if key != name})
