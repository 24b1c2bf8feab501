"""The command line. `python -m conformance URL --token-env TOKEN` judges a server; other verbs explain and prove.

`--protocol` names the protocol, of judging and of every verb that depends on it.
"""

from __future__ import annotations

import argparse
import inspect
import os
import random
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from conformance import VERSION, protocols
from conformance.core import baseline, plugin, report, spec
from conformance.core.plugin import LIMITS, TIMINGS, Options, Run, Suite
from conformance.core.verdict import Exit, Result, Verdict, exit_code
from conformance.core.wire import Target
from conformance.selftest import gates, houses

PROFILES = {
    "core": "every check that takes less than five seconds; the default",
    "full": "core, and the checks that wait as long as the protocol says (30 s, 60 s), beside the others",
    "readonly": "only checks that write nothing: for a production server, with --object PATH",
}
SECRETS = {
    "token": "a token that may write everywhere under the namespace",
    "limited": "a second token, limited to --limited-prefix",
    "expired": "a token of a valid user whose `exp` is past",
    "secret": "the secret of the server, for tokens that only it could mint",
    "basic": "`user:password` that may write",
}
INPUTS = ("limited_prefix", "blocked_address", "challenge_agent")
VERB_NAMES = "list, explain, replay, diff, compare, matrix, profiles, protocol, freeze, selftest"


class Misused(Exception):
    """The command line makes no sense."""


def _add_protocol(parser: argparse.ArgumentParser) -> None:
    known = sorted(protocols.SUITES)
    parser.add_argument("--protocol", choices=known, default=protocols.USUAL, help=f"{', '.join(known)} (%(default)s)")


def _suite(arguments: argparse.Namespace) -> Suite:
    return protocols.SUITES[arguments.protocol]


# -------------------------------------------------------------------------------------------------------- options


def _pairs(values: Sequence[str], option: str, known: Sequence[str]) -> dict[str, str]:
    """`name=value` of a repeated option. Raises Misused."""
    found: dict[str, str] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or name not in known:
            raise Misused(f"{option} {value}: must be NAME=VALUE with NAME one of {', '.join(known)}")
        found[name] = text
    return found


def _numbers(values: Sequence[str], option: str, usual: dict[str, Any]) -> dict[str, Any]:
    kind = type(next(iter(usual.values())))
    try:
        return {**usual, **{name: kind(text) for name, text in _pairs(values, option, list(usual)).items()}}
    except ValueError as error:
        raise Misused(f"{option}: {error}") from None


def _secrets(arguments: argparse.Namespace, suite: Suite) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in SECRETS:
        variable = getattr(arguments, f"{name}_env")
        if variable and name not in suite.secrets:
            raise Misused(f"--protocol {suite.spec.protocol} knows no {name}")
        if variable and not os.environ.get(variable):
            raise Misused(f"the environment variable {variable} is not set")
        if variable:
            found[name] = os.environ[variable].strip()
    return found


def _target(url: str, arguments: argparse.Namespace) -> Target:
    try:
        return Target.parse(url, verify=not arguments.insecure)
    except ValueError as error:
        raise Misused(str(error)) from None


def _required(names: Sequence[str], suite: Suite) -> Sequence[str]:
    unknown = [name for name in names if name not in suite.capabilities]
    if unknown:
        raise Misused(f"--require {unknown[0]}: one of {', '.join(suite.capabilities)}")
    return names


def _inputs(arguments: argparse.Namespace, suite: Suite) -> dict[str, str]:
    given = {name: getattr(arguments, name) for name in INPUTS if getattr(arguments, name)}
    unknown = [name for name in given if name not in suite.inputs]
    if unknown:
        raise Misused(f"--protocol {suite.spec.protocol} knows no {unknown[0]}")
    return given


def _storages(folders: Sequence[str], suite: Suite) -> tuple[str, ...]:
    if folders and suite.spec.protocol != "stor":
        raise Misused(f"--protocol {suite.spec.protocol} knows no storage")
    missing = [folder for folder in folders if not os.path.isdir(folder)]
    if missing:
        raise Misused(f"--storage {missing[0]} is no folder of this host")
    return tuple(os.path.abspath(folder) for folder in folders)


def _options(arguments: argparse.Namespace, url: str) -> Options:
    """Everything the caller says, as the runner needs it. Raises Misused."""
    target = _target(url, arguments)
    suite = _suite(arguments)
    levers = _pairs(arguments.lever, "--lever", ("restart",))
    if (levers or arguments.storage) and not target.loopback:
        raise Misused("--lever and --storage are for servers on this host only")
    capabilities = _pairs(arguments.cap, "--cap", suite.capabilities)
    if any(state not in ("on", "off") for state in capabilities.values()):
        raise Misused("--cap NAME=on or NAME=off")
    return Options(
        target=target,
        secrets=_secrets(arguments, suite),
        inputs=_inputs(arguments, suite),
        storages=_storages(arguments.storage, suite),
        levers=levers,
        capabilities=capabilities,
        required=tuple(_required(arguments.require, suite)),
        profile=arguments.profile,
        select=tuple(arguments.select),
        objects=tuple("/" + path.lstrip("/") for path in arguments.object),
        namespace=arguments.namespace or f"conformance-{time.strftime('%Y%m%d')}-{random.randrange(1 << 32):08x}",
        timings=_numbers(arguments.timing, "--timing", TIMINGS),
        limits=_numbers(arguments.limit, "--limit", LIMITS),
        seed=int(arguments.seed, 16) if arguments.seed else random.randrange(1 << 32),
        patience=arguments.patience,
        examples=arguments.examples,
        retry=not arguments.no_retry,
        requirements=spec.frozen(arguments.requirements, suite.spec.protocol) if arguments.requirements else None,
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    _add_protocol(parser)
    for name, what in SECRETS.items():
        option = f"--{name}-env" if name in ("token", "secret", "basic") else f"--{name}-token-env"
        parser.add_argument(option, dest=f"{name}_env", metavar="VARIABLE", help=f"environment variable with {what}")
    parser.add_argument("--limited-prefix", metavar="PREFIX", help="where the limited token may write")
    parser.add_argument("--blocked-address", metavar="IP", help="an address inside block_subnets of the server")
    parser.add_argument("--challenge-agent", metavar="UA", help="a User-Agent that gets the download challenge")
    parser.add_argument("--object", action="append", default=[], metavar="PATH", help="an object to read (readonly)")
    parser.add_argument("--profile", choices=PROFILES, default="core", help="see `profiles`")
    parser.add_argument("--select", action="append", default=[], metavar="CHECK", help="check or clause, * allowed")
    parser.add_argument(
        "--cap", action="append", default=[], metavar="NAME=off", help="a capability declared off or on"
    )
    parser.add_argument(
        "--require", action="append", default=[], metavar="NAME", help="a capability that must be there"
    )
    parser.add_argument("--lever", action="append", default=[], metavar="restart=CMD", help="kill -9 and start again")
    parser.add_argument(
        "--storage", action="append", default=[], metavar="DIR", help="each storage of the server's only pair (stor)"
    )
    parser.add_argument("--timing", action="append", default=[], metavar="NAME=S", help="lock_wait=30, idle=60")
    parser.add_argument("--limit", action="append", default=[], metavar="NAME=N", help="upload=…, member=…, files=…")
    parser.add_argument("--requirements", metavar="SET", help="a frozen set of clauses, such as 1")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="excused checks: `slug  # reason` a line")
    parser.add_argument("--namespace", help="folder on the server for everything that is written")
    parser.add_argument("--seed", metavar="HEX", help="of the generated cases; printed by every run")
    parser.add_argument("--examples", type=int, default=60, help="generated cases of each property (60)")
    parser.add_argument("--patience", type=float, default=1.0, metavar="F", help="factor on every ceiling (1)")
    parser.add_argument("--no-retry", action="store_true", help="do not try a failed check a second time")
    parser.add_argument("--insecure", action="store_true", help="do not verify the certificate")
    for form in ("json", "junit", "html", "lines"):
        parser.add_argument(f"--{form}", type=Path, metavar="FILE", help=f"write the report as {form}")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the summary")


# ------------------------------------------------------------------------------------------------------------ run


class Progress:
    """Tells how far it is: a line that renews itself on a terminal, only what did not pass elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._done = 0

    def __call__(self, result: Result) -> None:
        self._done += 1
        if self._quiet:
            return
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{self._done:4}  {result.check}")
            sys.stderr.flush()
        if result.verdict not in (Verdict.PASS, Verdict.UNSUPPORTED, Verdict.UNTESTABLE):
            start = "\r\x1b[K" if self._terminal else ""
            line = result.reason.strip().splitlines()[-1][:160] if result.reason else ""
            sys.stderr.write(f"{start}{result.verdict.value:9} {result.clause:7} {result.check}: {line}\n")

    def end(self) -> None:
        if self._terminal and not self._quiet:
            sys.stderr.write("\r\x1b[K")


def _judge(arguments: argparse.Namespace, url: str) -> tuple[Run, report.Report]:
    options = _options(arguments, url)
    excused = baseline.read(arguments.baseline) if arguments.baseline else {}
    progress = Progress(arguments.quiet)
    run = plugin.execute(_suite(arguments), options, progress)
    progress.end()
    stale = baseline.apply(excused, run.results)
    code = exit_code(run.results, died=run.died, stale=stale)
    return run, report.build(run, code, stale, arguments.requirements or "of today")


def _write(arguments: argparse.Namespace, made: report.Report) -> None:
    forms: dict[str, Callable[[report.Report], str]] = {
        "json": report.as_json,
        "junit": report.junit,
        "html": report.page,
        "lines": report.clause_lines,
    }
    for name, render in forms.items():
        path: Optional[Path] = getattr(arguments, name)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(render(made), encoding="utf-8")


def run(argv: Sequence[str]) -> int:
    """Judges one server."""
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__, epilog=f"Verbs: {VERB_NAMES}.")
    parser.add_argument("url")
    _add_options(parser)
    arguments = parser.parse_args(argv)
    _, made = _judge(arguments, arguments.url)
    _write(arguments, made)
    print(report.summary(made, colour=sys.stdout.isatty()))
    return int(made["exit"])


def compare(argv: Sequence[str]) -> int:
    """Judges several servers and shows where they differ."""
    parser = argparse.ArgumentParser(prog="conformance compare", description=compare.__doc__)
    parser.add_argument("urls", nargs="+", metavar="URL")
    _add_options(parser)
    arguments = parser.parse_args(argv)
    made = [_judge(arguments, url)[1] for url in arguments.urls]
    print(report.comparison(made))
    return max(int(one["exit"]) for one in made)


def replay(argv: Sequence[str]) -> int:
    """Runs one check again with the seed of its id, and shows every byte."""
    parser = argparse.ArgumentParser(prog="conformance replay", description=replay.__doc__)
    parser.add_argument("id", help="CHECK:SEED, as a report names it")
    parser.add_argument("url")
    _add_options(parser)
    arguments = parser.parse_args(argv)
    slug, colon, seed = arguments.id.rpartition(":")
    if not colon or _suite(arguments).spec.of_check(slug) is None:
        raise Misused(f"{arguments.id} is no id of a check: it looks like range.any:1f")
    arguments.select, arguments.seed, arguments.no_retry = [slug], seed, True
    made, told = _judge(arguments, arguments.url)
    _write(arguments, told)
    for result in made.results:
        for line in result.failure.transcript if result.failure is not None else []:
            print(line)
    print(report.summary(told, colour=sys.stdout.isatty()))
    return int(told["exit"])


# ----------------------------------------------------------------------------------------------------- explanations


def list_checks(argv: Sequence[str]) -> int:
    """Every check: clause, level, name, and what it needs."""
    parser = argparse.ArgumentParser(prog="conformance list", description=list_checks.__doc__)
    _add_protocol(parser)
    suite = _suite(parser.parse_args(argv))
    for check, _ in plugin.checks(suite):
        marks = [word for word, on in (("slow", check.slow), ("reads only", not check.writes)) if on]
        level = suite.spec.clauses[check.clause].level.value
        print(f"{check.clause:8} {level:6} {check.slug:32} {', '.join([*marks, *check.needs])}".rstrip())
    return Exit.CONFORMANT


def explain(argv: Sequence[str]) -> int:
    """What a check asks for, why, and how: its clause, its faults and its code."""
    parser = argparse.ArgumentParser(prog="conformance explain", description=explain.__doc__)
    parser.add_argument("check", help="a check or a clause")
    _add_protocol(parser)
    arguments = parser.parse_args(argv)
    suite, wanted = _suite(arguments), arguments.check
    found = [(check, function) for check, function in plugin.checks(suite) if wanted in (check.slug, check.clause)]
    if not found:
        raise Misused(f"no check and no clause of {suite.spec.protocol} is called {wanted}: see `list`")
    house = houses.HOUSES[suite.spec.protocol]
    for check, function in found:
        clause = suite.spec.clauses[check.clause]
        print(f"{check.slug}\n  {clause.id} {clause.level.value} ({clause.section}): {clause.sentence}")
        if clause.upstream:
            print(f"  ≠ {suite.spec.upstream} {clause.upstream}")
        for name in house.by_clause.get(clause.id, []):
            known = house.faults[name]
            print(f"  caught in the self-test: {name}: {(sys.modules[known.server.__module__].__doc__ or '').strip()}")
        print("\n" + inspect.getsource(function))
    return Exit.CONFORMANT


def profiles(argv: Sequence[str]) -> int:
    """The profiles, and what can be given."""
    argparse.ArgumentParser(prog="conformance profiles", description=profiles.__doc__).parse_args(argv)
    for name, what in PROFILES.items():
        print(f"{name:10} {what}")
    return Exit.CONFORMANT


def _mentions(text: list[str], page_id: str) -> list[int]:
    name = re.compile(rf"\b{page_id}(?![0-9])")
    return [number for number, line in enumerate(text, 1) if name.search(line)]


def matrix(argv: Sequence[str]) -> int:
    """Clause -> checks -> faults -> places in the code that name the clause."""
    parser = argparse.ArgumentParser(prog="conformance matrix", description=matrix.__doc__)
    parser.add_argument("--code", type=Path, action="append", default=[], help="a file or folder of the server")
    _add_protocol(parser)
    arguments = parser.parse_args(argv)
    suite = _suite(arguments)
    sources = [
        path for given in arguments.code for path in ([given] if given.is_file() else sorted(given.rglob("*.py")))
    ]
    lines = [(path, path.read_text(encoding="utf-8").splitlines()) for path in sources]
    faults = houses.HOUSES[suite.spec.protocol].by_clause
    for clause in suite.spec.clauses.values():
        print(f"{clause.id} {clause.level.value} {clause.sentence}")
        print(f"  checks  {', '.join(clause.checks) or 'none: ' + clause.excluded}")
        print(f"  faults  {', '.join(faults.get(clause.id, [])) or 'none'}")
        places = [f"{path.name}:{number}" for path, text in lines for number in _mentions(text, clause.page_id)]
        if sources:
            print(f"  code    {', '.join(places) or 'none'}")
    return Exit.CONFORMANT


def diff(argv: Sequence[str]) -> int:
    """What changed between two JSON reports; 1 when something is worse."""
    parser = argparse.ArgumentParser(prog="conformance diff", description=diff.__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    arguments = parser.parse_args(argv)
    lines = report.diff(report.load(arguments.before), report.load(arguments.after))
    print("\n".join(lines) or "no check changed its verdict")
    return Exit.NOT_CONFORMANT if any(line.startswith("worse") for line in lines) else Exit.CONFORMANT


def protocol(argv: Sequence[str]) -> int:
    """Prints PROTOCOL-….md, generated from the table of clauses."""
    parser = argparse.ArgumentParser(prog="conformance protocol", description=protocol.__doc__)
    _add_protocol(parser)
    print(spec.page(_suite(parser.parse_args(argv)).spec), end="")
    return Exit.CONFORMANT


def freeze(argv: Sequence[str]) -> int:
    """Prints a frozen requirement set of the clauses of today."""
    parser = argparse.ArgumentParser(prog="conformance freeze", description=freeze.__doc__)
    _add_protocol(parser)
    print(spec.freeze(_suite(parser.parse_args(argv)).spec), end="")
    return Exit.CONFORMANT


def selftest(argv: Sequence[str]) -> int:
    """Proves that the suite catches every fault and blames no right server."""
    parser = argparse.ArgumentParser(prog="conformance selftest", description=selftest.__doc__)
    parser.add_argument("--protocol", choices=sorted(protocols.SUITES), help="of one protocol (all)")
    parser.add_argument(
        "--jobs", type=int, default=(os.cpu_count() or 2) * 5 // 2, help="processes (five for two processors)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="some proofs, * allowed")
    parser.add_argument("--stability", type=int, default=1, metavar="N", help="runs of the reference in a row (1)")
    parser.add_argument("--every", action="store_true", help="all checks against each fault, not only its own")
    return gates.main(parser.parse_args(argv))


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "list": list_checks,
    "explain": explain,
    "replay": replay,
    "diff": diff,
    "compare": compare,
    "matrix": matrix,
    "profiles": profiles,
    "protocol": protocol,
    "freeze": freeze,
    "selftest": selftest,
}


def main(argv: Sequence[str]) -> int:
    """The exit code; see Exit."""
    if argv and argv[0] in ("--version", "-V"):
        print(VERSION)
        return Exit.CONFORMANT
    verb = VERBS.get(argv[0]) if argv else None
    try:
        return int(verb(argv[1:]) if verb is not None else run(argv))
    except BrokenPipeError:  # whoever read the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.SUITE_ERROR
    except Misused as error:
        print(f"conformance: {error}", file=sys.stderr)
        return Exit.USAGE
    except (ValueError, FileNotFoundError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return Exit.USAGE
