"""The proofs: each is one task for a worker process, from a name to what was found. No proof prints."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Optional

from conformance.core.plugin import Options, Run, execute
from conformance.core.poll import Patience
from conformance.core.registry import Check
from conformance.core.transcript import Redactor, Transcript
from conformance.core.verdict import Level, Result, Verdict, not_met
from conformance.core.wire import WireError
from conformance.kernelci import SUITE
from conformance.kernelci.client import Client
from conformance.selftest import fault, nulls, stand
from conformance.selftest.reference import Reference

SMOKE = (
    "status.banner",
    "upload.basic",
    "download.public",
    "range.closed",
    "missing.text",
    "connection.keep-alive",
    "list.keys",
    "checkauth.valid",
)


@dataclass
class Proof:
    """What one proof found. `problems` empty: it holds."""

    name: str
    problems: list[str] = field(default_factory=list)
    checks: int = 0
    caught_by: list[str] = field(default_factory=list)
    headroom: float = 0.0  # greatest share of a ceiling that was needed
    seconds: float = 0.0


def _silent(_: Result) -> None:
    return


def _shown(results: list[Result]) -> list[str]:
    return [f"{one.check}: {one.verdict.value}: {one.reason.strip().splitlines()[-1][:200]}" for one in results]


def observe(witness: fault.Witness, options: Options) -> object:
    """What a witness sees; a broken exchange is something seen too."""
    run = Run(options, SUITE.spec, Patience(0.3), Redactor(()))
    client = Client(run, Check("witness", "", ""), Transcript(), 1)
    try:
        return witness(client)
    except WireError as error:
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


def _compared(known: fault.Fault) -> AbstractContextManager[Options]:
    return stand.process("reference") if known.restarts else stand.standing(Reference)


def _selecting(options: Options, selected: tuple[str, ...]) -> Options:
    return replace(options, select=selected)


def kill(name: str, every: bool = False) -> Proof:
    """One fault: its witness shows it, the checks of its clause catch it, and nothing falls outside its blast."""
    known = fault.faults()[name]
    started = time.monotonic()
    proof = Proof(name)
    with _compared(known) as options:
        expected = observe(known.witness, options)
    with stand.of_fault(name) as options:
        if observe(known.witness, options) == expected:
            proof.problems.append(f"the witness sees no fault: {expected!r}")
    with stand.of_fault(name) as options:
        own = SUITE.spec.clauses[known.clause].checks
        selected = () if every else (*own, *SMOKE)
        run = execute(SUITE, _selecting(options, selected), _silent)
    proof.checks = len(run.results)
    _caught(proof, known, run)
    proof.seconds = time.monotonic() - started
    return proof


def null(name: str) -> Proof:
    """One server that is none: no MUST check passes."""
    started = time.monotonic()
    with nulls.listening(nulls.NULLS[name]) as port:
        hasty = stand.options(port, patience=0.01, examples=5)
        run = execute(SUITE, hasty, _silent, preflight=False)
    passed = [one for one in run.results if one.verdict is Verdict.PASS and one.level is Level.MUST]
    errors = [one for one in run.results if one.verdict is Verdict.ERROR]
    proof = Proof(name, [f"{one.check} passes" for one in passed] + _shown(errors), len(run.results))
    proof.seconds = time.monotonic() - started
    return proof


def right(name: Optional[str]) -> Proof:
    """A right server: the reference (None) or a benign variation. Every check passes but those it declares."""
    started = time.monotonic()
    variation = fault.benign()[name] if name else fault.Benign(Reference, "the reference itself")
    examples = 40 if name is None else 15
    with stand.standing(variation.server, capabilities=dict(variation.capabilities), examples=examples) as options:
        run = execute(SUITE, options, _silent)
    proof = Proof(name or "reference", checks=len(run.results))
    excused = {Verdict.UNSUPPORTED} if variation.capabilities else set()
    for one in run.results:
        warned = one.verdict is Verdict.WARN and one.clause in variation.warns
        apart = one.check == "atomic.survives-restart"  # proved with a process of its own
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
    if name is None and proof.headroom > 0.5:
        proof.problems.append(f"a check needed {proof.headroom:.0%} of its ceiling: {run.patience.used}")
    proof.seconds = time.monotonic() - started
    return proof


def durable(_: str) -> Proof:
    """The reference in a process of its own survives its restart."""
    started = time.monotonic()
    with stand.process("reference", select=("atomic.survives-restart",)) as options:
        run = execute(SUITE, options, _silent)
    problems = _shown([one for one in run.results if one.verdict is not Verdict.PASS])
    return Proof("restart", problems, len(run.results), seconds=time.monotonic() - started)


def kill_with_all(name: str) -> Proof:
    """The same with every check, to measure the blast radius."""
    return kill(name, every=True)
