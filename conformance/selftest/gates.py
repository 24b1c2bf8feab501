"""The gates of the self-test: every proof in parallel processes, and the figures."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Any, Callable, NamedTuple, Optional

from conformance.core.verdict import Exit, Level
from conformance.kernelci import SUITE
from conformance.selftest import fault, nulls, proofs
from conformance.selftest.manners import MANNERS
from conformance.selftest.models import MODELS
from conformance.selftest.proofs import Proof


class Task(NamedTuple):
    kind: str
    name: str
    call: Callable[..., Proof]
    argument: Any


def _model(name: str) -> Proof:
    problem = MODELS[name]()
    return Proof(name, [] if problem is None else [problem])


def _manner(name: str) -> Proof:
    return Proof(name, MANNERS[name]())


def tasks(stability: int, every: bool) -> list[Task]:
    """All proofs, the long ones first so that no processor waits at the end."""
    found = [
        Task("null server", name, proofs.null, name)
        for name in sorted(nulls.NULLS, key=lambda n: n not in ("hang", "random"))
    ]
    found += [Task("reference", f"reference {number + 1}", proofs.right, None) for number in range(stability)]
    found += [Task("reference", "restart", proofs.durable, "")]
    found += [Task("benign", name, proofs.right, name) for name in fault.benign()]
    found += [Task("manners", name, _manner, name) for name in MANNERS]
    found += [Task("model", name, _model, name) for name in MODELS]
    kill = proofs.kill_with_all if every else proofs.kill
    known = fault.faults()
    slow = ("UP-09e", "UP-09c", "DL-06b")
    return found + [
        Task("fault", name, kill, name) for name in sorted(known, key=lambda n: known[n].clause not in slow)
    ]


def figures(done: dict[Task, Proof], seconds: float) -> dict[str, Any]:
    """What is printed, and what the test of this repository holds."""
    of_kind = {
        kind: [(t, p) for t, p in done.items() if t.kind == kind] for kind in dict.fromkeys(t.kind for t in done)
    }
    known = fault.faults()
    clauses = SUITE.spec.clauses
    musts = [clause.id for clause in clauses.values() if clause.level is Level.MUST and clause.checks]
    caught = [proof for _, proof in of_kind.get("fault", []) if proof.caught_by]
    return {
        "faults": len(of_kind.get("fault", [])),
        "caught": len(caught),
        "musts judged": len(musts),
        "musts with a fault of their own": len(set(musts) & {one.clause for one in known.values()}),
        "null servers": len(of_kind.get("null server", [])),
        "passes for a null server": sum(len(proof.problems) for _, proof in of_kind.get("null server", [])),
        "right servers": len(of_kind.get("benign", [])) + len(of_kind.get("reference", [])),
        "false reds": sum(len(p.problems) for kind in ("benign", "reference") for _, p in of_kind.get(kind, [])),
        "verdicts": sum(proof.checks for proof in done.values()),
        "headroom": round(max((proof.headroom for _, proof in of_kind.get("reference", [])), default=0.0), 3),
        "problems": sum(len(proof.problems) for proof in done.values()),
        "seconds": round(seconds, 1),
    }


def _told(task: Task, proof: Proof) -> str:
    return "".join(f"\n  {task.kind} {task.name}: {problem}" for problem in proof.problems)


def _show(found: dict[str, Any]) -> None:
    rate = f"kill rate {100 * found['caught'] / found['faults']:.1f} %" if found["faults"] else "none selected"
    print(f"\n  faults caught            {found['caught']}/{found['faults']}  {rate}")
    print(f"  MUST clauses with fault  {found['musts with a fault of their own']}/{found['musts judged']}")
    print(f"  null servers             {found['null servers']}, passes {found['passes for a null server']}")
    print(f"  right servers            {found['right servers']}, false reds {found['false reds']}")
    print(f"  ceilings                 at most {found['headroom']:.0%} of one was needed")
    print(f"  verdicts                 {found['verdicts']} in {found['seconds']:.0f} s")
    print(f"  {'ALL PROOFS HOLD' if not found['problems'] else str(found['problems']) + ' PROBLEMS'}\n")


def _chosen(task: Task, only: list[str]) -> bool:
    return not only or any(fnmatchcase(task.name, one) or fnmatchcase(task.kind, one) for one in only)


def main(arguments: argparse.Namespace) -> int:
    """Runs the proofs, prints what does not hold and the figures. 0 when all hold, 4 otherwise."""
    started = time.monotonic()
    chosen = [t for t in tasks(arguments.stability, arguments.every) if _chosen(t, arguments.only)]
    done: dict[Task, Proof] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, mp_context=context) as pool:
        running = {pool.submit(task.call, task.argument): task for task in chosen}
        for future in as_completed(running):
            task = running[future]
            error: Optional[BaseException] = future.exception()
            done[task] = Proof(task.name, [f"the proof broke: {error!r}"]) if error is not None else future.result()
            text = _told(task, done[task])
            if text or sys.stderr.isatty():
                sys.stderr.write(f"{text}\n" if text else f"\r{len(done):4}/{len(chosen)} ")
                sys.stderr.flush()
    found = figures(done, time.monotonic() - started)
    _show(found)
    if arguments.json is not None:
        rows = [{"kind": task.kind, **asdict(proof)} for task, proof in done.items()]
        arguments.json.write_text(json.dumps({"figures": found, "proofs": rows}, indent=1), encoding="utf-8")
    if not chosen:
        return Exit.NOTHING_SELECTED
    return Exit.CONFORMANT if found["problems"] == 0 else Exit.SUITE_ERROR
