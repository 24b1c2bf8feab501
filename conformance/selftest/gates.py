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
from conformance.selftest import nulls, proofs
from conformance.selftest.house import House
from conformance.selftest.houses import HOUSES
from conformance.selftest.manners import MANNERS
from conformance.selftest.models import MODELS
from conformance.selftest.proofs import Proof


class Task(NamedTuple):
    protocol: str
    kind: str
    name: str
    call: Callable[[str, str], Proof]
    argument: str


def _model(_: str, name: str) -> Proof:
    problem = MODELS[name]()
    return Proof(name, [] if problem is None else [problem])


def _manner(protocol: str, name: str) -> Proof:
    return Proof(name, MANNERS[name](HOUSES[protocol]))


def tasks(house: House, stability: int, every: bool) -> list[Task]:
    """All proofs of a protocol, the long ones first so that no processor waits at the end."""
    listed: list[tuple[str, str, Callable[[str, str], Proof], str]] = [
        ("null server", name, proofs.null, name)
        for name in sorted(nulls.handlers(house.banner), key=lambda n: n not in nulls.SILENT)
    ]
    listed += [("manners", name, _manner, name) for name in MANNERS]
    listed += [("reference", f"reference {number + 1}", proofs.right, "") for number in range(stability)]
    listed += [("reference", "restart", proofs.durable, "")]
    listed += [("benign", name, proofs.right, name) for name in house.benign]
    kill = proofs.kill_with_all if every else proofs.kill
    known = house.faults
    by_time = sorted(known, key=lambda n: known[n].clause not in house.slow)
    listed += [("fault", name, kill, name) for name in by_time]
    return [Task(house.name, *one) for one in listed]


def figures(house: House, done: dict[Task, Proof]) -> dict[str, Any]:
    """What is printed of a protocol, and what the test of this repository holds."""
    own = [(task, proof) for task, proof in done.items() if task.protocol == house.name]
    of_kind = {kind: [(t, p) for t, p in own if t.kind == kind] for kind in dict.fromkeys(t.kind for t, _ in own)}
    known = house.faults
    clauses = house.suite.spec.clauses
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
        "verdicts": sum(proof.checks for _, proof in own),
        "headroom": round(max((proof.headroom for _, proof in of_kind.get("reference", [])), default=0.0), 3),
        "problems": sum(len(proof.problems) for _, proof in own),
        "seconds": round(sum(proof.seconds for _, proof in own), 1),  # of processes: more run at the same time
    }


def _told(task: Task, proof: Proof) -> str:
    return "".join(f"\n  {task.protocol} {task.kind} {task.name}: {problem}" for problem in proof.problems)


def _show(protocol: str, found: dict[str, Any]) -> None:
    rate = f"kill rate {100 * found['caught'] / found['faults']:.1f} %" if found["faults"] else "none selected"
    print(f"\n{protocol}")
    print(f"  faults caught            {found['caught']}/{found['faults']}  {rate}")
    print(f"  MUST clauses with fault  {found['musts with a fault of their own']}/{found['musts judged']}")
    print(f"  null servers             {found['null servers']}, passes {found['passes for a null server']}")
    print(f"  right servers            {found['right servers']}, false reds {found['false reds']}")
    print(f"  ceilings                 at most {found['headroom']:.0%} of one was needed")
    print(f"  verdicts                 {found['verdicts']}")


def _chosen(task: Task, only: list[str]) -> bool:
    return not only or any(fnmatchcase(task.name, one) or fnmatchcase(task.kind, one) for one in only)


def main(arguments: argparse.Namespace) -> int:
    """Runs the proofs, prints what does not hold and the figures. 0 when all hold, 4 otherwise."""
    started = time.monotonic()
    houses = [house for name, house in HOUSES.items() if arguments.protocol in (None, name)]
    every = [task for house in houses for task in tasks(house, arguments.stability, arguments.every)]
    every += [Task(houses[0].name, "model", name, _model, name) for name in MODELS]
    chosen = [task for task in every if _chosen(task, arguments.only)]
    done: dict[Task, Proof] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, mp_context=context) as pool:
        running = {pool.submit(task.call, task.protocol, task.argument): task for task in chosen}
        for future in as_completed(running):
            task = running[future]
            error: Optional[BaseException] = future.exception()
            done[task] = Proof(task.name, [f"the proof broke: {error!r}"]) if error is not None else future.result()
            text = _told(task, done[task])
            if text or sys.stderr.isatty():
                sys.stderr.write(f"{text}\n" if text else f"\r{len(done):4}/{len(chosen)} ")
                sys.stderr.flush()
    found = {house.name: figures(house, done) for house in houses}
    for name, one in found.items():
        _show(name, one)
    problems = sum(one["problems"] for one in found.values())
    told = "ALL PROOFS HOLD" if not problems else f"{problems} PROBLEMS"
    print(f"\n{told} ({time.monotonic() - started:.0f} s)\n")
    if arguments.json is not None:
        rows = [{"protocol": task.protocol, "kind": task.kind, **asdict(proof)} for task, proof in done.items()]
        arguments.json.write_text(json.dumps({"figures": found, "proofs": rows}, indent=1), encoding="utf-8")
    if not chosen:
        return Exit.NOTHING_SELECTED
    return Exit.CONFORMANT if problems == 0 else Exit.SUITE_ERROR
