"""Reports. One plain dictionary (schema `conformance-report/1`) holds everything; each other form is made of it alone.

So a kept JSON can be rendered, compared and diffed years later, by a suite that has moved on.
"""

from __future__ import annotations

import html
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from conformance import VERSION
from conformance.core.plugin import Run
from conformance.core.verdict import RED, Exit, Result, Verdict, tally

SCHEMA = "conformance-report/1"
Report = dict[str, Any]

WORDS = {
    Exit.CONFORMANT: "Conformant",
    Exit.NOT_CONFORMANT: "Not conformant",
    Exit.UNREACHABLE: "Target unreachable or died",
    Exit.SUITE_ERROR: "Fault of the suite",
    Exit.NOTHING_SELECTED: "Nothing judged",
    Exit.STALE_BASELINE: "Stale baseline",
}
ORDER = (
    Verdict.FAIL,
    Verdict.FLAKY,
    Verdict.ERROR,
    Verdict.DEPENDENCY,
    Verdict.WARN,
    Verdict.INFO,
    Verdict.UNTESTABLE,
    Verdict.UNSUPPORTED,
    Verdict.PASS,
)


def _row(run: Run, result: Result) -> Report:
    clause = run.spec.clauses[result.clause]
    return {
        "id": result.id,
        "check": result.check,
        "clause": clause.id,
        "section": clause.section,
        "level": result.level.value,
        "sentence": clause.sentence,
        "upstream": clause.upstream,
        "verdict": result.verdict.value,
        "excused": result.excused,
        "reason": result.reason,
        "seconds": round(result.seconds, 3),
        "failure": asdict(result.failure) if result.failure is not None else None,
    }


def build(run: Run, code: Exit, stale: list[str], requirements: str) -> Report:
    """The dictionary of one run. Every text in it is already redacted."""
    counts = tally(run.results)
    options = run.options
    order = list(run.spec.clauses)
    results = sorted(run.results, key=lambda result: order.index(result.clause))
    return {
        "schema": SCHEMA,
        "suite": {
            "version": VERSION,
            "protocol": run.spec.protocol,
            "title": run.spec.title,
            "upstream": run.spec.upstream,
            "requirements": requirements,
        },
        "target": {"url": options.target.origin + options.target.prefix, "server": run.redact(run.server)},
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(run.seconds, 2),
        "profile": options.profile,
        "seed": options.seed,
        "namespace": options.namespace,
        "exit": int(code),
        "verdict": WORDS[code],
        "died": run.redact(run.why_died) if run.died else "",
        "counts": {verdict.value: counts[verdict] for verdict in Verdict},
        "capabilities": {name: {"state": one.state, "why": one.why} for name, one in sorted(run.capabilities.items())},
        "stale": stale,
        "results": [_row(run, result) for result in results],
        "excluded": [
            {"clause": clause.id, "sentence": clause.sentence, "reason": clause.excluded}
            for clause in run.spec.clauses.values()
            if clause.excluded
        ],
    }


def load(path: Path) -> Report:
    """Raises ValueError for what is no report of this schema."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no report of the schema {SCHEMA}")
    return data


def as_json(report: Report) -> str:
    return json.dumps(report, indent=1, ensure_ascii=False) + "\n"


# ----------------------------------------------------------------------------------------------------------- lines


def clause_lines(report: Report) -> str:
    """One line a clause: the worst verdict of its checks. For grep, and for keeping beside a server's code."""
    worst: dict[str, Report] = {}
    rank = [verdict.value for verdict in ORDER]
    for row in report["results"]:
        known = worst.get(row["clause"])
        if known is None or rank.index(row["verdict"]) < rank.index(known["verdict"]):
            worst[row["clause"]] = row
    lines = [f"{row['clause']:8} {row['level']:6} {row['verdict']:18} {row['sentence']}" for row in worst.values()]
    lines += [f"{row['clause']:8} {'':6} {'excluded':18} {row['sentence']}" for row in report["excluded"]]
    return "\n".join(sorted(lines)) + "\n"


# ----------------------------------------------------------------------------------------------------------- JUnit

_JUNIT = {
    Verdict.FAIL.value: "failure",
    Verdict.FLAKY.value: "failure",
    Verdict.DEPENDENCY.value: "failure",
    Verdict.ERROR.value: "error",
    Verdict.UNSUPPORTED.value: "skipped",
    Verdict.UNTESTABLE.value: "skipped",
}


def _sections(report: Report) -> Iterator[tuple[str, list[Report]]]:
    grouped: dict[str, list[Report]] = {}
    for row in report["results"]:
        grouped.setdefault(row["section"], []).append(row)
    yield from grouped.items()


def _xml(text: str) -> str:
    # XML 1.0 has no form at all for most control characters.
    return "".join(char if char in "\t\n" or 32 <= ord(char) < 0xD800 or ord(char) > 0xDFFF else "�" for char in text)


def _failure_text(row: Report) -> str:
    failure = row["failure"]
    if failure is None:
        return str(row["reason"])
    parts = (row["sentence"], f"sent: {failure['sent']}", f"allowed: {failure['allowed']}", f"came: {failure['came']}")
    return "\n".join((*parts, f"again: {failure['curl']}", *failure["transcript"]))


def junit(report: Report) -> str:
    """JUnit XML: a suite a section. A warning is a pass with its reason in system-out; an excused failure skips."""
    root = ElementTree.Element("testsuites", name=report["suite"]["title"], time=str(report["seconds"]))
    for section, rows in _sections(report):
        suite = ElementTree.SubElement(root, "testsuite", name=section, tests=str(len(rows)))
        counted = dict.fromkeys(("failure", "error", "skipped"), 0)
        for row in rows:
            kind = "skipped" if row["excused"] else _JUNIT.get(row["verdict"], "")
            name = f"{row['clause']} {row['check']}"
            case = ElementTree.SubElement(suite, "testcase", classname=section, name=name, time=str(row["seconds"]))
            if kind:
                counted[kind] += 1
                ElementTree.SubElement(case, kind, message=_xml(row["reason"])).text = _xml(_failure_text(row))
            elif row["reason"]:
                ElementTree.SubElement(case, "system-out").text = _xml(f"{row['verdict']}: {row['reason']}")
        suite.set("failures", str(counted["failure"]))
        suite.set("errors", str(counted["error"]))
        suite.set("skipped", str(counted["skipped"]))
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


# -------------------------------------------------------------------------------------------------------- terminal


def _coloured(text: str, code: str, colour: bool) -> str:
    return f"\x1b[1;{code}m{text}\x1b[0m" if colour else text


def _failures(report: Report, *, colour: bool) -> Iterator[str]:
    worth = [verdict.value for verdict in (*RED, Verdict.ERROR, Verdict.DEPENDENCY, Verdict.WARN)]
    for row in sorted(report["results"], key=lambda row: row["verdict"] == "warn"):
        if row["verdict"] not in worth:
            continue
        word = _coloured(row["verdict"].upper(), "33" if row["verdict"] == "warn" else "31", colour)
        yield f"  {word} {row['clause']} {row['level']} {row['check']}" + (" (excused)" if row["excused"] else "")
        yield f"    rule     {row['sentence']}"
        failure = row["failure"]
        if failure is None:
            yield f"    reason   {row['reason'].strip().splitlines()[-1]}"
        else:
            for name in ("sent", "allowed", "came", "curl"):
                first = (failure[name].strip() or "nothing").splitlines()[0]
                yield f"    {'again' if name == 'curl' else name:8} {first[:300]}"
            again = f"replay {row['id']} {report['target']['url']} --protocol {report['suite']['protocol']} …"
            yield f"    replay   python -m conformance {again}"
        yield ""


def _beside(rows: list[Report]) -> str:
    others = [word.value for word in ORDER if word not in (Verdict.PASS, Verdict.INFO)]
    counted = ((word, sum(row["verdict"] == word for row in rows)) for word in others)
    return " ".join(f"{count} {word}" for word, count in counted if count)


def summary(report: Report, *, colour: bool) -> str:
    """What a person understands at a glance."""
    target = report["target"]
    server = f" ({target['server']})" if target["server"] else ""
    facts = f"profile {report['profile']} · seed {report['seed']:x} · {report['seconds']:.1f} s"
    out = ["", f"{report['suite']['title']} · {target['url']}{server} · {facts}", ""]
    for section, rows in _sections(report):
        judged = [row for row in rows if row["verdict"] not in ("unsupported", "untestable")]
        good = sum(row["verdict"] in ("pass", "info") for row in judged)
        bar = ("█" * round(20 * good / len(judged))).ljust(20, "░") if judged else "·" * 20
        out.append(f"  {section:22} {bar} {good:3}/{len(judged):<3} {_beside(rows)}".rstrip())
    out += ["", *_failures(report, colour=colour)]
    silent = [row for row in report["results"] if row["verdict"] in ("unsupported", "untestable")]
    for reason in dict.fromkeys(row["reason"] for row in silent):
        same = [row["check"] for row in silent if row["reason"] == reason]
        more = f" and {len(same) - 1} more" if len(same) > 1 else ""
        out.append(f"  not judged: {same[0]}{more}: {reason}")
    out += [f"  {report['died']}"] if report["died"] else []
    out += [f"  stale in the baseline: {check} passes" for check in report["stale"]]
    counts = " · ".join(f"{count} {word}" for word, count in report["counts"].items() if count)
    good = report["exit"] == Exit.CONFORMANT
    word = _coloured(report["verdict"].upper(), "32" if good else "31", colour)
    return "\n".join([*out, "", f"{word}  {counts}  (exit {report['exit']})", ""])


# ----------------------------------------------------------------------------------------------------------- diffs


def diff(before: Report, after: Report) -> list[str]:
    """What changed between two reports: one line a check, the worse first."""
    old = {row["check"]: row for row in before["results"]}
    new = {row["check"]: row for row in after["results"]}
    rank = [verdict.value for verdict in ORDER]
    changed: list[tuple[bool, str]] = []
    for check in sorted({*old, *new}):
        was = old[check]["verdict"] if check in old else "absent"
        now = new[check]["verdict"] if check in new else "absent"
        if was != now:
            worse = now in rank and (was not in rank or rank.index(now) < rank.index(was))
            row = new.get(check) or old[check]
            changed.append((worse, f"{row['clause']:8} {check:32} {was} -> {now}"))
    return [("worse  " if worse else "other  ") + line for worse, line in sorted(changed, key=lambda one: not one[0])]


def comparison(reports: list[Report]) -> str:
    """Several servers side by side: only the checks on which they differ or fail."""
    names = [report["target"]["url"] for report in reports]
    tables = [{row["check"]: row for row in report["results"]} for report in reports]
    lines = [f"{'':8} {'':32} " + " ".join(f"{name:28}" for name in names)]
    for check in dict.fromkeys(check for table in tables for check in table):
        words = [table[check]["verdict"] if check in table else "absent" for table in tables]
        if len(set(words)) > 1 or words[0] not in ("pass", "unsupported"):
            clause = next(table[check]["clause"] for table in tables if check in table)
            lines.append(f"{clause:8} {check:32} " + " ".join(f"{word:28}" for word in words))
    lines.append(f"{'':8} {'in all':32} " + " ".join(f"{report['verdict']:28}" for report in reports))
    return "\n".join(line.rstrip() for line in lines) + "\n"


# ------------------------------------------------------------------------------------------------------------ HTML

TEMPLATE = Path(__file__).with_name("report.html")


def _silent(report: Report) -> str:
    grouped: dict[str, list[str]] = {}
    for row in report["results"]:
        if row["verdict"] in ("unsupported", "untestable"):
            grouped.setdefault(f"{row['verdict']}: {row['reason']}", []).append(row["check"])
    items = (
        f"<li><b>{html.escape(reason)}</b><br><span class=quiet>{html.escape(', '.join(checks))}</span></li>"
        for reason, checks in grouped.items()
    )
    return "".join(items) or "<li>Everything that was selected was judged.</li>"


def _count(word: str, count: int) -> str:
    return f'<li class="{word}"><b>{count}</b> {word}</li>' if count else ""


def _tile(section: str, rows: list[Report]) -> str:
    anchor = html.escape(section.replace(" ", "-"))
    counted = [(word.value, sum(row["verdict"] == word.value for row in rows)) for word in reversed(ORDER)]
    bars = "".join(
        f'<i class="{word}" style="flex:{count}" title="{count} {word}"></i>' for word, count in counted if count
    )
    good = sum(row["verdict"] in ("pass", "info") for row in rows)
    return (
        f'<a class=tile href="#{anchor}"><span>{html.escape(section)}</span>'
        f"<span class=number>{good}/{len(rows)}</span><span class=bar>{bars}</span></a>"
    )


def _prose(text: str) -> str:
    """Backticks become code."""
    pieces = html.escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces))


def _table(section: str, rows: list[Report]) -> str:
    anchor = html.escape(section.replace(" ", "-"))
    lines = "".join(
        f'<tr class="{row["verdict"]}"><td>{row["clause"]}<br><small>{row["level"]}</small></td>'
        f"<td>{_prose(row['sentence'])}<br><code>{html.escape(row['check'])}</code></td>"
        f'<td><span class="chip {row["verdict"]}">{row["verdict"]}</span></td></tr>'
        for row in rows
    )
    return f'<h3 id="{anchor}">{html.escape(section)}</h3><table>{lines}</table>'


def _excluded(row: Report) -> str:
    reason = f"<span class=quiet>{html.escape(row['reason'])}</span>"
    return f"<li><b>{row['clause']}</b> {_prose(row['sentence'])} {reason}</li>"


def _finding(row: Report, upstream_name: str) -> str:
    failure = row["failure"] or {"sent": "", "allowed": "", "came": row["reason"], "curl": "", "transcript": []}
    deviation = html.escape(f"{upstream_name} {row['upstream']}.")
    upstream = f"<p class=quiet>{deviation}</p>" if row["upstream"] else ""
    excused = " · excused by the baseline" if row["excused"] else ""
    facts = "".join(
        f"<dt>{name}</dt><dd><pre>{html.escape(str(failure[key]))}</pre></dd>"
        for name, key in (("Sent", "sent"), ("Allowed", "allowed"), ("Came", "came"), ("Again", "curl"))
        if failure[key]
    )
    raw = html.escape("\n".join(failure["transcript"]))
    more = f"<details><summary>Bytes on the wire</summary><pre>{raw}</pre></details>" if raw else ""
    return (
        f'<article class="finding {row["verdict"]}" id="check-{html.escape(row["check"])}">'
        f'<h3><span class="chip {row["verdict"]}">{row["verdict"]}</span> {html.escape(row["check"])}</h3>'
        f"<p><b>{row['clause']} {row['level']}</b>{excused} — {_prose(row['sentence'])}</p>{upstream}"
        f"<dl>{facts}</dl>{more}</article>"
    )


def _findings(report: Report) -> list[Report]:
    rank = [verdict.value for verdict in ORDER]
    worth = rank[: rank.index("warn") + 1]
    return sorted(
        (row for row in report["results"] if row["verdict"] in worth), key=lambda row: rank.index(row["verdict"])
    )


def page(report: Report) -> str:
    """One file without any other: readable on a phone, in the dark, on paper, and without scripts."""
    good = report["exit"] == Exit.CONFORMANT
    values = {
        "title": f"{report['verdict']}: {report['target']['url']}",
        "tone": "good" if good else "bad",
        "verdict": report["verdict"],
        "protocol": report["suite"]["title"],
        "target": report["target"]["url"],
        "server": report["target"]["server"] or "no Server header",
        "facts": f"{report['when']} · profile {report['profile']} · seed {report['seed']:x} · {report['seconds']:.1f} s"
        f" · suite {report['suite']['version']} · requirements {report['suite']['requirements']}",
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", html.escape(str(value)))
    upstream = report["suite"].get("upstream", "upstream")
    parts = {
        "counts": "".join(_count(word.value, report["counts"][word.value]) for word in ORDER),
        "sections": "".join(_tile(section, rows) for section, rows in _sections(report)),
        "findings": "".join(_finding(row, upstream) for row in _findings(report)) or "<p class=quiet>None.</p>",
        "silent": _silent(report),
        "tables": "".join(_table(section, rows) for section, rows in _sections(report)),
        "excluded": "".join(_excluded(row) for row in report["excluded"]),
    }
    for name, value in parts.items():
        text = text.replace("{{" + name + "}}", value)
    return text
