"""The proofs: each is one task for a worker process, from protocol and name to what was found. No proof prints."""

from __future__ import annotations

import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from conformance.core.expect import Violation
from conformance.core.plugin import Options, Run, execute
from conformance.core.poll import Patience
from conformance.core.registry import Check
from conformance.core.transcript import Redactor, Transcript
from conformance.core.verdict import Level, NotJudged, Result, Verdict, not_met
from conformance.core.wire import WireError
from conformance.selftest import fault, nulls, stand
from conformance.selftest.house import House
from conformance.selftest.houses import HOUSES


@dataclass
class Proof:
    """What one proof found. `problems` empty: it holds."""

    name: str
    problems: list[str] = field(default_factory=list)
    checks: int = 0
    caught_by: list[str] = field(default_factory=list)
    headroom: float = 0.0  # greatest share of a ceiling that was needed
    seconds: float = 0.0


_LOOKS = 5  # of a witness: what shows only when two requests meet shows at one of them


def _silent(_: Result) -> None:
    return


def _shown(results: list[Result]) -> list[str]:
    return [f"{one.check}: {one.verdict.value}: {one.reason.strip().splitlines()[-1][:200]}" for one in results]


def observe(house: House, witness: fault.Witness, options: Options) -> object:
    """What a witness sees; that it cannot see what it wanted to is something seen too."""
    run = Run(options, house.suite.spec, Patience(0.3), Redactor(()))
    client = house.suite.client(run, Check("witness", "", ""), Transcript(), 1)
    try:
        return witness(client)
    except (WireError, Violation, NotJudged) as error:
        return type(error).__name__
    finally:
        client.close()


def _caught(proof: Proof, known: fault.Fault, run: Run) -> None:
    proof.problems += ["the server died"] if run.died else []
    for one in run.results:
        wrong = one.verdict is Verdict.DEPENDENCY or (one.failure is not None and one.verdict is not Verdict.PASS)
        if one.verdict is Verdict.ERROR:
            proof.problems += _shown([one])
        elif one.clause == known.clause:
            if one.failure is not None and one.verdict is not_met(one.level):
                proof.caught_by.append(one.check)
        elif wrong and not any(fnmatchcase(one.clause, clause) for clause in known.blast):
            proof.problems.append("outside its blast: " + _shown([one])[0])
    if not proof.caught_by:
        own = [one for one in run.results if one.clause == known.clause]
        proof.problems.append("not caught: " + "; ".join(f"{one.check} {one.verdict.value}" for one in own))


def _compared(house: House, known: fault.Fault) -> AbstractContextManager[Options]:
    return stand.process(house, "reference") if known.restarts else stand.standing(house, house.reference)


def _shows(house: House, name: str, expected: object) -> bool:
    """Whether a faulty server ever looks otherwise than the reference; each look is at one that just started."""
    for _ in range(_LOOKS):
        with stand.of_fault(house, name) as options:
            if observe(house, house.faults[name].witness, options) != expected:
                return True
    return False


def kill(protocol: str, name: str, every: bool = False) -> Proof:
    """One fault: its witness shows it, the checks of its clause catch it, and nothing falls outside its blast."""
    house = HOUSES[protocol]
    known = house.faults[name]
    started = time.monotonic()
    proof = Proof(name)
    with _compared(house, known) as options:
        expected = observe(house, known.witness, options)
    if not _shows(house, name, expected):
        proof.problems.append(f"the witness sees no fault: {expected!r}")
    with stand.of_fault(house, name) as options:
        own = house.suite.spec.clauses[known.clause].checks
        selected = () if every else (*own, *house.smoke)
        # A faulty server makes checks wait for what never comes: half as long is enough to know.
        run = execute(house.suite, replace(options, select=selected, patience=0.5), _silent)
    proof.checks = len(run.results)
    _caught(proof, known, run)
    proof.seconds = time.monotonic() - started
    return proof


def null(protocol: str, name: str) -> Proof:
    """One server that is none: no MUST check passes."""
    house = HOUSES[protocol]
    started = time.monotonic()
    handler = nulls.handlers(house.banner)[name]
    with tempfile.TemporaryDirectory(prefix="conformance-") as where, nulls.listening(handler) as port:
        patience = 0.004 if name in nulls.SILENT else 0.01
        hasty = replace(house.told(port, Path(where)), patience=patience, examples=5)
        run = execute(house.suite, hasty, _silent, preflight=False)
    passed = [one for one in run.results if one.verdict is Verdict.PASS and one.level is Level.MUST]
    errors = [one for one in run.results if one.verdict is Verdict.ERROR]
    proof = Proof(name, [f"{one.check} passes" for one in passed] + _shown(errors), len(run.results))
    proof.seconds = time.monotonic() - started
    return proof


def right(protocol: str, name: str) -> Proof:
    """A right server: the reference ("") or a benign variation. Every check passes but those it declares."""
    house = HOUSES[protocol]
    started = time.monotonic()
    variation = house.benign[name] if name else fault.Benign(house.reference, "the reference itself")
    changes = {"capabilities": dict(variation.capabilities), "examples": 15 if name else 40}
    with stand.standing(house, variation.server, **changes) as options:
        run = execute(house.suite, options, _silent)
    proof = Proof(name or "reference", checks=len(run.results))
    excused = {Verdict.UNSUPPORTED} if variation.capabilities else set()
    for one in run.results:
        warned = one.verdict is Verdict.WARN and one.clause in variation.warns
        apart = one.check in house.apart  # proved with a process of its own
        untestable = one.verdict is Verdict.UNTESTABLE and (apart or one.check in variation.untestable)
        if (
            one.verdict not in (Verdict.PASS, Verdict.INFO)
            and one.verdict not in excused
            and not warned
            and not untestable
        ):
            proof.problems += _shown([one])
    proof.problems += ["the server died"] if run.died else []
    proof.headroom = max(run.patience.used.values(), default=0.0)
    if not name and proof.headroom > 0.5:
        proof.problems.append(f"a check needed {proof.headroom:.0%} of its ceiling: {run.patience.used}")
    proof.seconds = time.monotonic() - started
    return proof


def durable(protocol: str, _: str) -> Proof:
    """The reference in a process of its own survives its restart."""
    house = HOUSES[protocol]
    started = time.monotonic()
    with stand.process(house, "reference", select=house.apart) as options:
        run = execute(house.suite, options, _silent)
    problems = _shown([one for one in run.results if one.verdict is not Verdict.PASS])
    return Proof("restart", problems, len(run.results), seconds=time.monotonic() - started)


def kill_with_all(protocol: str, name: str) -> Proof:
    """The same with every check, to measure the blast radius."""
    return kill(protocol, name, every=True)
