"""Proofs of the suite's own manners: exit codes, reports, redaction, the baseline, curl lines, and no leaks."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Callable
from xml.etree import ElementTree

from conformance import protocols
from conformance.core import plugin, report, spec
from conformance.core.plugin import Options, execute
from conformance.core.transcript import Redactor
from conformance.core.verdict import Exit
from conformance.selftest import stand
from conformance.selftest.house import House
from conformance.selftest.web.server import WebServer

HOSTILE = {"PYTEST_ADDOPTS": "--collect-only -k nothing -p no:python", "PYTEST_PLUGINS": "no_such_plugin"}


def _given(house: House) -> list[str]:
    """The options that name secrets, by the environment of `_run`."""
    known = {"token": "--token-env", "secret": "--secret-env", "basic": "--basic-env"}
    names = [name for name in house.suite.secrets if name in known]
    words = [word for name in names for word in (known[name], f"PROOF_{name.upper()}")]
    return [*words, "--protocol", house.name]


def _run(folder: str, house: House, options: Options, *more: str) -> subprocess.CompletedProcess[str]:
    """The command line in a folder with a hostile pytest configuration, and a hostile environment."""
    (Path(folder) / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (Path(folder) / "conftest.py").write_text("raise SystemExit('the conftest of the caller was read')\n")
    words = [sys.executable, "-m", "conformance", *more, *_given(house)]
    secrets = {f"PROOF_{name.upper()}": value for name, value in options.secrets.items()}
    environment = {**os.environ, **HOSTILE, **secrets, "PYTHONPATH": str(stand.ROOT)}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


def exit_codes(house: House) -> list[str]:
    """Every exit code, each by the case that must give it."""
    problems: list[str] = []
    check = house.examples.check
    faulty = house.faults[house.examples.fault].server
    upright = stand.standing(house, house.reference)
    with tempfile.TemporaryDirectory() as folder, upright as good, stand.standing(house, faulty) as bad:
        known, stale = Path(folder) / "known", Path(folder) / "stale"
        known.write_text(f"{check}  # it is the proxy's\n")
        stale.write_text(f"{check}  # was mended long ago\n")
        select = ("--select", check)
        cases = [
            (Exit.CONFORMANT, (good.target.origin, *select)),
            (Exit.NOT_CONFORMANT, (bad.target.origin, *select)),
            (Exit.CONFORMANT, (bad.target.origin, *select, "--baseline", str(known))),
            (Exit.STALE_BASELINE, (good.target.origin, *select, "--baseline", str(stale))),
            (Exit.USAGE, ("ftp://example.org",)),
            (Exit.USAGE, (good.target.origin, "--cap", "nonsense=off")),
            (Exit.USAGE, ("http://192.0.2.1", "--lever", "restart=true")),
            (Exit.UNREACHABLE, ("http://127.0.0.1:1",)),
            (Exit.NOTHING_SELECTED, (good.target.origin, "--select", "no.such.check")),
        ]
        name, checks = house.examples.optional
        off = (good.target.origin, "--select", checks, "--cap", f"{name}=off")
        cases += [(Exit.NOTHING_SELECTED, off), (Exit.NOT_CONFORMANT, (*off, "--require", name))] if name else []
        for code, words in cases:
            done = _run(folder, house, good, *words)
            if done.returncode != code:
                problems.append(f"exit {done.returncode} instead of {int(code)}: {words}: {done.stderr[-200:]}")
    return problems


def _leaks(house: House, options: Options, form: str, text: str) -> list[str]:
    hidden = [f"{name} stands in the {form} report" for name, value in house.suite.hidden(options) if value in text]
    for run in set(re.findall(r"[A-Za-z0-9+/]{8,}={0,2}", text)):
        raw = base64.b64decode(run + "=" * (-len(run) % 4)) if len(run.rstrip("=")) % 4 != 1 else b""
        hidden += [
            f"{n} stands in base64 in the {form} report" for n, v in options.secrets.items() if v.encode() in raw
        ]
    return hidden


def reports(house: House) -> list[str]:
    """All forms are written, can be read, and hold no secret; `diff` and `replay` work on what was written."""
    problems: list[str] = []
    examples = house.examples
    known = house.faults[examples.secret_fault]
    with tempfile.TemporaryDirectory() as folder, stand.standing(house, known.server) as options:
        paths = {form: Path(folder) / f"out.{form}" for form in ("json", "junit", "html", "lines")}
        words = [word for form, path in paths.items() for word in (f"--{form}", str(path))]
        words += [word for slug in examples.secret_select for word in ("--select", slug)]
        done = _run(folder, house, options, options.target.origin, *words)
        texts = {form: path.read_text() if path.exists() else "" for form, path in paths.items()}
        problems += [f"no {form} report: {done.stderr[-200:]}" for form, text in texts.items() if not text]
        for form, text in (*texts.items(), ("terminal", done.stdout + done.stderr)):
            problems += _leaks(house, options, form, text)
        if problems:
            return problems
        made = report.load(paths["json"])
        failed = [row for row in made["results"] if row["verdict"] == "fail"]
        problems += [] if [row["check"] for row in failed] == [examples.secret_check] else [f"failed: {failed}"]
        found = ElementTree.fromstring(texts["junit"]).findall(".//failure")
        problems += [] if found else ["no failure in the JUnit file"]
        whole = known.clause in texts["html"] and not re.search(r"\{\{[a-z]+\}\}", texts["html"])
        problems += [] if whole else ["the page is not whole"]
        again = _run(folder, house, options, "replay", failed[0]["id"], options.target.origin)
        shown = "$TOKEN" in again.stdout or "$BASIC" in again.stdout
        problems += [] if again.returncode == 1 and shown else [f"replay: {again.stdout[-300:]}"]
        better = json.loads(texts["json"])
        for row in better["results"]:
            row["verdict"] = "pass"
        lines = report.diff(better, made)
        problems += [] if len(lines) == 1 and lines[0].startswith("worse") else [f"diff: {lines}"]
    return problems


def redaction(house: House) -> list[str]:
    """A secret is hidden as it is, inside longer words, and in base64 with whatever stands around it."""
    with stand.standing(house, house.reference) as options:
        hide = Redactor(house.suite.hidden(options))
        problems: list[str] = []
        for name, value in options.secrets.items():
            coded = (
                base64.b64encode(f"{around}{value}{around}".encode()).decode() for around in ("", "a", "ab", "abc")
            )
            for text in (value, f"x{value}x", *coded):
                shown = hide(f"Authorization: Basic {text}\r\n")
                problems += [f"{name} is shown: {shown!r}"] if text in shown else []
        plain = "sha256 946a5ec1d49e0d7825489b1258476fdd66a3e9370cc406c2981a4dc3cd7f4e4f of Basic YWxhZGRpbjpvcGVu"
        problems += [] if hide(plain) == plain else [f"what is no secret is hidden: {hide(plain)}"]
    return problems


def curl_lines(house: House) -> list[str]:
    """The curl line of a failure gives the status that the failure tells of."""
    if shutil.which("curl") is None:
        return ["curl is not installed: its lines were not proved"]
    problems: list[str] = []
    for name in house.examples.curled:
        known = house.faults[name]
        with stand.standing(house, known.server) as options:
            told = replace(options, select=house.suite.spec.clauses[known.clause].checks)
            run = execute(house.suite, told, lambda _: None)
            failures = [one.failure for one in run.results if one.failure is not None]
            for failure in failures:
                seen = re.findall(r"< HTTP/1\.1 ([0-9]{3})", "\n".join(failure.transcript))
                environment = {**os.environ, **{key.upper(): value for key, value in options.secrets.items()}}
                words = ["bash", "-c", failure.curl]
                done = subprocess.run(words, env=environment, capture_output=True, timeout=60, check=False)
                status = re.match(rb"HTTP/1\.1 ([0-9]{3})", done.stdout)
                if status is None or not seen or status[1].decode() != seen[-1]:
                    problems.append(f"{name}: {failure.curl[:200]} gives {done.stdout[:60]!r}, not {seen[-1:]}")
            problems += [] if failures else [f"{name}: nothing failed"]
    return problems


def flaky(house: House) -> list[str]:
    """A failure that does not come again is flaky, which is red; a target that goes away is told."""
    asked: list[object] = []

    def metrics_text(server: WebServer) -> str:
        asked.append(server)
        return "no metrics at all\n" if len(asked) == 1 else house.reference.metrics_text(server)

    problems: list[str] = []
    once = type("Once", (house.reference,), {"metrics_text": metrics_text})
    with stand.standing(house, once, select=("metrics.format",), retry=True) as options:
        run = execute(house.suite, options, lambda _: None)
        problems += [] if [one.verdict.value for one in run.results] == ["flaky"] else [f"flaky: {run.results}"]
    with stand.standing(house, house.reference) as options:
        told = replace(options, select=("metrics.format",))
    gone = execute(house.suite, told, lambda _: None)
    return problems + ([] if gone.died else ["a target that is gone is not told"])


def tables(house: House) -> list[str]:
    """The table, the checks, the faults and the page agree."""
    clauses = house.suite.spec.clauses
    known = {check.slug: check for check, _ in plugin.checks(house.suite)}
    problems: list[str] = []
    for clause in clauses.values():
        problems += [
            f"{clause.id} names {slug}, which is no check of it"
            for slug in clause.checks
            if slug not in known or known[slug].clause != clause.id
        ]
        if clause.checks and clause.id not in house.by_clause:
            problems.append(f"{clause.id} has no fault of its own")
    problems += [f"{slug} is not in the table" for slug in known if house.suite.spec.of_check(slug) is None]
    problems += [f"faults of no clause: {name}" for name in house.by_clause if name not in clauses]
    for path in sorted((spec.FOLDER / "frozen").glob("*.toml")):
        if f'protocol = "{house.name}"' in path.read_text(encoding="utf-8"):
            lost = set(spec.frozen(path.stem, house.name)) - set(clauses)
            problems += [f"the frozen set {path.stem} names {sorted(lost)}"] if lost else []
    page = protocols.page(house.name)
    fresh = page.read_text(encoding="utf-8") == spec.page(house.suite.spec)
    return problems + ([] if fresh else [f"{page.name} is stale: python -m conformance protocol"])


def black_box(_house: House) -> list[str]:
    """No part of the suite imports a server it judges."""
    pattern = re.compile(r"^\s*(?:from|import)\s+(?:kcistorage|stor|artifactapi)\b", re.MULTILINE)
    files = Path(__file__).parent.parent.rglob("*.py")
    return [f"{path.name} imports the server" for path in files if pattern.search(path.read_text(encoding="utf-8"))]


MANNERS: dict[str, Callable[[House], list[str]]] = {
    "exit codes": exit_codes,
    "reports": reports,
    "redaction": redaction,
    "curl lines": curl_lines,
    "flaky and gone": flaky,
    "tables": tables,
    "imports": black_box,
}
