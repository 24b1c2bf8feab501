"""Proofs of the suite's own manners: exit codes, reports, redaction, the baseline, curl lines, and no leaks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Optional
from xml.etree import ElementTree

from conformance.core import plugin, report, spec
from conformance.core.plugin import Options, execute
from conformance.core.verdict import Exit
from conformance.kernelci import SUITE
from conformance.selftest import fault, nulls, stand
from conformance.selftest.reference import Reference

HOSTILE = {"PYTEST_ADDOPTS": "--collect-only -k nothing -p no:python", "PYTEST_PLUGINS": "no_such_plugin"}


def _secrets(options: Options) -> dict[str, str]:
    return {f"PROOF_{name.upper()}": value for name, value in options.secrets.items()}


def _run(folder: str, options: Options, *more: str) -> subprocess.CompletedProcess[str]:
    """The command line in a folder with a hostile pytest configuration, and a hostile environment."""
    (Path(folder) / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (Path(folder) / "conftest.py").write_text("raise SystemExit('the conftest of the caller was read')\n")
    words = [sys.executable, "-m", "conformance", *more, "--token-env", "PROOF_TOKEN", "--secret-env", "PROOF_SECRET"]
    environment = {**os.environ, **HOSTILE, **_secrets(options), "PYTHONPATH": str(stand.ROOT)}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


def exit_codes() -> list[str]:
    """Every exit code, each by the case that must give it."""
    problems: list[str] = []
    fault_kind = fault.faults()["st_03a_robots_welcome"].server
    with tempfile.TemporaryDirectory() as folder, stand.standing(Reference) as good, stand.standing(fault_kind) as bad:
        known, stale = Path(folder) / "known", Path(folder) / "stale"
        known.write_text("status.robots  # the robots file is the proxy's\n")
        stale.write_text("status.robots  # was mended long ago\n")
        select = ("--select", "status.*")
        cases = (
            (Exit.CONFORMANT, (good.target.origin, *select)),
            (Exit.NOT_CONFORMANT, (bad.target.origin, *select)),
            (Exit.CONFORMANT, (bad.target.origin, *select, "--baseline", str(known))),
            (Exit.STALE_BASELINE, (good.target.origin, *select, "--baseline", str(stale))),
            (Exit.USAGE, ("ftp://example.org",)),
            (Exit.USAGE, (good.target.origin, "--cap", "nonsense=off")),
            (Exit.UNREACHABLE, ("http://127.0.0.1:1",)),
            (Exit.NOTHING_SELECTED, (good.target.origin, "--select", "no.such.check")),
            (Exit.NOTHING_SELECTED, (good.target.origin, "--select", "archive.*", "--cap", "archive=off")),
            (
                Exit.NOT_CONFORMANT,
                (good.target.origin, "--select", "archive.*", "--cap", "archive=off", "--require", "archive"),
            ),
        )
        for code, words in cases:
            done = _run(folder, good, *words)
            if done.returncode != code:
                problems.append(f"exit {done.returncode} instead of {int(code)}: {words}: {done.stderr[-200:]}")
    return problems


def reports() -> list[str]:
    """All forms are written, can be read, and hold no secret; `diff` and `replay` work on what was written."""
    problems: list[str] = []
    kind = fault.faults()["au_04a_nameless"].server
    with tempfile.TemporaryDirectory() as folder, stand.standing(kind) as options:
        paths = {form: Path(folder) / f"out.{form}" for form in ("json", "junit", "html", "lines")}
        words = [word for form, path in paths.items() for word in (f"--{form}", str(path))]
        done = _run(folder, options, options.target.origin, "--select", "checkauth.*", "--select", "token.*", *words)
        texts = {form: path.read_text() if path.exists() else "" for form, path in paths.items()}
        problems += [f"no {form} report: {done.stderr[-200:]}" for form, text in texts.items() if not text]
        for form, text in (*texts.items(), ("terminal", done.stdout + done.stderr)):
            problems += [
                f"{name} stands in the {form} report" for name, value in options.secrets.items() if value in text
            ]
        if problems:
            return problems
        made = report.load(paths["json"])
        failed = [row for row in made["results"] if row["verdict"] == "fail"]
        problems += [] if [row["check"] for row in failed] == ["checkauth.valid"] else [f"failed: {failed}"]
        problems += (
            [] if ElementTree.fromstring(texts["junit"]).findall(".//failure") else ["no failure in the JUnit file"]
        )
        problems += [] if "AU-04a" in texts["html"] and "{{" not in texts["html"] else ["the page is not whole"]
        again = _run(folder, options, "replay", failed[0]["id"], options.target.origin)
        problems += [] if again.returncode == 1 and "$TOKEN" in again.stdout else [f"replay: {again.stdout[-300:]}"]
        better = json.loads(texts["json"])
        for row in better["results"]:
            row["verdict"] = "pass"
        lines = report.diff(better, made)
        problems += [] if len(lines) == 1 and lines[0].startswith("worse") else [f"diff: {lines}"]
    return problems


_CURLED = (
    "dl_05c_suffix_refused",
    "dl_04a_if_match_ignored",
    "up_05a_first_file_only",
    "rb_04_host_unchecked",
    "st_03a_robots_welcome",
)


def curl_lines() -> list[str]:
    """The curl line of a failure gives the status that the failure tells of."""
    if shutil.which("curl") is None:
        return ["curl is not installed: its lines were not proved"]
    problems: list[str] = []
    for name in _CURLED:
        known = fault.faults()[name]
        with stand.standing(known.server) as options:
            select = SUITE.spec.clauses[known.clause].checks
            told = replace(options, select=select)
            run = execute(SUITE, told, lambda _: None)
            failures = [one.failure for one in run.results if one.failure is not None]
            for failure in failures:
                seen = re.findall(r"< HTTP/1\.1 ([0-9]{3})", "\n".join(failure.transcript))
                environment = {**os.environ, **{name.upper(): value for name, value in options.secrets.items()}}
                done = subprocess.run(
                    ["bash", "-c", failure.curl], env=environment, capture_output=True, timeout=60, check=False
                )
                status = re.match(rb"HTTP/1\.1 ([0-9]{3})", done.stdout)
                if status is None or not seen or status[1].decode() != seen[-1]:
                    problems.append(f"{name}: {failure.curl[:200]} gives {done.stdout[:60]!r}, not {seen[-1:]}")
            problems += [] if failures else [f"{name}: nothing failed"]
    return problems


def flaky() -> list[str]:
    """A failure that does not come again is flaky, which is red; a target that goes away is told."""

    class Once(Reference):
        asked = 0

        def robots(self, request: object) -> object:  # type: ignore[override]
            self.asked += 1
            return self.text(200, "" if self.asked == 1 else "User-agent: *\nDisallow: /")

    problems: list[str] = []
    with stand.standing(Once) as options:
        run = execute(SUITE, replace(options, select=("status.robots",), retry=True), lambda _: None)
        problems += [] if [one.verdict.value for one in run.results] == ["flaky"] else [f"flaky: {run.results}"]
    with nulls.listening(nulls.NULLS["close"]) as port:
        told = stand.options(port, select=("status.robots",))
    gone = execute(SUITE, told, lambda _: None)
    return problems + ([] if gone.died else ["a target that is gone is not told"])


def tables() -> list[str]:
    """The table, the checks, the faults and the page agree."""
    known = {check.slug: check for check, _ in plugin.checks(SUITE)}
    faults = fault.by_clause()
    problems: list[str] = []
    for clause in SUITE.spec.clauses.values():
        problems += [
            f"{clause.id} names {slug}, which is no check of it"
            for slug in clause.checks
            if slug not in known or known[slug].clause != clause.id
        ]
        if clause.checks and clause.id not in faults:
            problems.append(f"{clause.id} has no fault of its own")
    problems += [f"{slug} is not in the table" for slug in known if SUITE.spec.of_check(slug) is None]
    problems += [f"faults of no clause: {name}" for name in faults if name not in SUITE.spec.clauses]
    for path in sorted((spec.FOLDER / "frozen").glob("*.toml")):
        lost = set(spec.frozen(path.stem)) - set(SUITE.spec.clauses)
        problems += [f"the frozen set {path.stem} names {sorted(lost)}"] if lost else []
    written = (spec.FOLDER.parent / "PROTOCOL.md").read_text(encoding="utf-8")
    problems += [] if written == spec.page([SUITE.spec]) else ["PROTOCOL.md is stale: python -m conformance protocol"]
    return problems


def vanished(_: Optional[str] = None) -> list[str]:
    """No part of the suite imports the server it judges."""
    pattern = re.compile(r"^\s*(?:from|import)\s+(?:kcistorage|stor|artifactapi)", re.MULTILINE)
    files = Path(__file__).parent.parent.rglob("*.py")
    return [f"{path.name} imports the server" for path in files if pattern.search(path.read_text(encoding="utf-8"))]


MANNERS = {
    "exit codes": exit_codes,
    "reports": reports,
    "curl lines": curl_lines,
    "flaky and gone": flaky,
    "tables": tables,
    "imports": vanished,
}
