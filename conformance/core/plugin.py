"""The runner: pytest inside, with its own configuration, and a judge that turns each test into a verdict.

Nothing of the caller's pytest leaks in: no ini file, no conftest, no PYTEST_ADDOPTS, no installed plugin.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Callable, Optional, Protocol

import pytest

from conformance.core.expect import Violation
from conformance.core.poll import Patience
from conformance.core.registry import Check, check_of
from conformance.core.spec import Clause, Spec
from conformance.core.transcript import Redactor, Transcript
from conformance.core.verdict import Failure, Level, NotJudged, Result, Unsupported, Untestable, Verdict, not_met
from conformance.core.wire import Connection, Target, Unreachable, WireError

CONFIGURATION = Path(__file__).with_name("inner.ini")
_PLUGINS_OFF = ("terminal", "cacheprovider", "faulthandler", "unraisableexception")  # the last one collects garbage
_LEAKS = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_CURRENT_TEST")

# What the protocol says, for a server that is not configured otherwise: seconds, bytes and files.
TIMINGS = {"lock_wait": 30.0, "idle": 60.0}
LIMITS = {"upload": 4 << 30, "member": 512 << 20, "files": 10_000}


@dataclass(frozen=True)
class Options:
    """Everything the caller says about the target. Times are seconds, sizes bytes."""

    target: Target
    secrets: Mapping[str, str] = field(default_factory=dict)  # name of the input -> secret value
    inputs: Mapping[str, str] = field(default_factory=dict)  # other inputs, by name
    storages: tuple[str, ...] = ()  # folders of the server on this host
    levers: Mapping[str, str] = field(default_factory=dict)  # name -> shell command
    capabilities: Mapping[str, str] = field(default_factory=dict)  # name -> "on" or "off", as declared
    required: tuple[str, ...] = ()  # capabilities that must be there
    profile: str = "core"
    select: tuple[str, ...] = ()  # slugs or clause ids, with wildcards; empty: all
    objects: tuple[str, ...] = ()  # paths to read in the profile `readonly`
    namespace: str = ""  # folder on the server under which everything is written
    timings: Mapping[str, float] = field(default_factory=TIMINGS.copy)
    limits: Mapping[str, int] = field(default_factory=LIMITS.copy)
    seed: int = 0
    patience: float = 1.0
    examples: int = 60
    retry: bool = True
    requirements: Optional[Mapping[str, Level]] = None  # a frozen set, None: today's table


@dataclass(frozen=True)
class Capability:
    """What a server offers, probed once or declared. `state` is "on", "off" or "unknown"."""

    name: str
    state: str
    why: str


@dataclass
class Run:
    """One run against one server: what was asked, and what came of it. Clients of several threads share it."""

    options: Options
    spec: Spec
    patience: Patience
    redact: Redactor
    capabilities: dict[str, Capability] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    died: bool = False
    why_died: str = ""
    seconds: float = 0.0
    server: str = ""

    def level(self, clause: Clause) -> Level:
        frozen = self.options.requirements
        return clause.level if frozen is None else frozen.get(clause.id, Level.MAY)

    def connect(self, transcript: Transcript, receive_buffer: Optional[int] = None) -> Connection:
        seconds = self.patience.ceiling("answer")

        def answered(took: float) -> None:
            self.patience.needed("answer", took)

        return Connection(self.options.target, transcript, seconds, receive_buffer, answered)

    def alive(self) -> bool:
        try:
            self.connect(Transcript()).close()
        except Unreachable as error:
            self.why_died = str(error)
            return False
        return True


class Client(Protocol):
    """What a suite hands to its checks."""

    transcript: Transcript

    def close(self) -> None: ...


def _by_value(options: Options) -> Iterable[tuple[str, str]]:
    return [(name.upper(), value) for name, value in options.secrets.items()]


@dataclass(frozen=True)
class Suite:
    """One protocol: its table, its checks, its client, what can be given, and how its capabilities are found."""

    spec: Spec
    folders: tuple[Path, ...]
    client: Callable[[Run, Check, Transcript, int], Client]
    probe: Callable[[Run], dict[str, Capability]]
    secrets: tuple[str, ...]  # names of what is given by an environment variable
    inputs: tuple[str, ...]  # names of what else is given
    capabilities: tuple[str, ...]
    hidden: Callable[[Options], Iterable[tuple[str, str]]] = _by_value  # what no report may show, and its name there

    def check_of(self, function: Any) -> Optional[Check]:
        """The check that a function is, with its clause; None for what is no check of this protocol."""
        found = check_of(function)
        if found is None or found.clause:
            return found
        clause = self.spec.of_check(found.slug)
        return None if clause is None else replace(found, clause=clause.id)


def _function(item: pytest.Item) -> Any:
    return getattr(item, "function", None)


class _Names:
    """The names that tests have for their client. `pytest_pyfunc_call` hands the real one over."""

    @pytest.fixture
    def kci(self) -> None:
        """The client of the KernelCI protocol."""

    @pytest.fixture
    def stor(self) -> None:
        """The client of the Stor protocol."""

    @pytest.fixture
    def web(self) -> None:
        """The client of a shared check, whatever the protocol."""


@dataclass(eq=False)  # a plugin is known by its identity
class Judge(_Names):
    """The pytest plugin. It selects checks, runs each, and keeps the verdicts; pytest itself reports nothing."""

    run: Run
    suite: Suite
    progress: Callable[[Result], None]
    attempts: dict[str, int] = field(default_factory=dict)
    _early: dict[str, Future[Result]] = field(default_factory=dict)
    _pool: Optional[ThreadPoolExecutor] = None

    def _check(self, item: pytest.Item) -> Check:
        found = self.suite.check_of(_function(item))
        assert found is not None
        return found

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self._selected(self.suite.check_of(_function(item)))]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        slow = [item for item in session.items if self._check(item).slow]
        if slow and not session.config.option.collectonly:
            self._pool = ThreadPoolExecutor(max_workers=len(slow))
            known = [(self._check(item), _function(item)) for item in slow]
            self._early = {check.slug: self._pool.submit(self._judged, check, call) for check, call in known}
        # What waits half a minute is asked for last, and then what no other check must see.
        session.items.sort(key=lambda item: (self._check(item).alone, self._check(item).slow))

    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool:
        check = self._check(pyfuncitem)
        early = self._early.get(check.slug)
        result = early.result() if early is not None else self._judged(check, _function(pyfuncitem))
        self.run.results.append(result)
        self.progress(result)
        if result.verdict in (Verdict.FAIL, Verdict.WARN, Verdict.FLAKY) and not self.run.alive():
            self.run.died = True
            pyfuncitem.session.shouldstop = "the target died"
        return True

    def pytest_sessionfinish(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=not self.run.died)

    # ------------------------------------------------------------------------------------------------- one check

    def _selected(self, check: Optional[Check]) -> bool:
        if check is None:
            return False
        options = self.run.options
        named = any(fnmatchcase(check.slug, one) or fnmatchcase(check.clause, one) for one in options.select)
        if options.select and not named:
            return False
        if options.profile == "readonly" and check.writes:
            return False
        return not check.slow or options.profile == "full" or check.slug in options.select

    def _judged(self, check: Check, function: Callable[[Any], None]) -> Result:
        """The verdict on one check: never raises but for KeyboardInterrupt."""
        first = self._attempt(check, function)
        if first.verdict is not Verdict.FAIL or check.slow or not self.run.options.retry or not self.run.alive():
            return self._levelled(first)
        second = self._attempt(check, function)
        if second.verdict is Verdict.PASS:
            first.verdict = Verdict.FLAKY
            first.reason = f"passed when it was tried again: {first.reason}"
            return first
        return self._levelled(first)

    def _levelled(self, result: Result) -> Result:
        if result.verdict is Verdict.FAIL:
            result.verdict = not_met(result.level)
        return result

    def _attempt(self, check: Check, function: Callable[[Any], None]) -> Result:
        clause = self.suite.spec.clauses[check.clause]
        seed = self.run.options.seed
        result = Result(check.slug, clause.id, self.run.level(clause), Verdict.PASS, seed=seed)
        transcript = Transcript()
        started = time.monotonic()
        client: Optional[Client] = None
        try:
            self._require(check)
            client = self.suite.client(self.run, check, transcript, self._number(check.slug))
            function(client)
        except NotJudged as reason:
            result.verdict, result.reason = reason.verdict, self.run.redact(str(reason))
        except Violation as error:
            self._fail(result, error, transcript)
        except WireError as error:
            self._fail(result, Violation("an answer by RFC 9112", str(error)), transcript)
        except Exception:  # noqa: BLE001 - whatever a check does wrong is a verdict of its own
            result.verdict, result.reason = Verdict.ERROR, self.run.redact(traceback.format_exc(limit=-6))
        finally:
            if client is not None:
                client.close()
            result.seconds = time.monotonic() - started
        return result

    def _require(self, check: Check) -> None:
        for name in check.needs:
            capability = self.run.capabilities.get(name, Capability(name, "unknown", "was not probed"))
            if capability.state == "off" and name in self.run.options.required:
                raise Violation(f"the capability {name}, which is required", f"off: {capability.why}")
            if capability.state == "off":
                raise Unsupported(f"{name} is off: {capability.why}")
        direct = self.run.capabilities.get("direct")
        if check.direct and direct is not None and direct.state == "off":
            raise Untestable(direct.why)

    def _number(self, slug: str) -> int:
        self.attempts[slug] = self.attempts.get(slug, 0) + 1
        return self.attempts[slug]

    def _fail(self, result: Result, error: Violation, transcript: Transcript) -> None:
        redact = self.run.redact
        result.verdict = Verdict.FAIL
        result.reason = redact(str(error))
        _, data = transcript.request or ("", b"")
        sent = data.partition(b"\r\n\r\n")[0].decode("utf-8", "backslashreplace")
        if error.context:
            sent = f"{error.context}\n{sent}"
        result.failure = Failure(
            sent=redact(sent).replace("\r\n", "\n"),
            allowed=redact(error.allowed),
            came=redact(error.came),
            curl=transcript.curl(redact),
            transcript=transcript.lines(redact),
        )


@contextmanager
def _sealed() -> Iterator[None]:
    """The environment without the caller's pytest settings."""
    kept = {name: os.environ.pop(name) for name in _LEAKS if name in os.environ}
    before = os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        yield
    finally:
        os.environ.update(kept)
        if before is None:
            del os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]
        else:
            os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = before


def _pytest(suite: Suite, plugin: object, extra: Sequence[str]) -> int:
    arguments = [
        "-c",
        str(CONFIGURATION),
        f"--rootdir={CONFIGURATION.parent.parent}",
        "--noconftest",
        "--import-mode=importlib",
    ]
    arguments += [f"-pno:{name}" for name in _PLUGINS_OFF]
    arguments += ["--assert=plain", "--capture=no", *extra]
    with _sealed():
        return int(pytest.main([*arguments, *map(str, suite.folders)], plugins=[plugin]))


def execute(suite: Suite, options: Options, progress: Callable[[Result], None], *, preflight: bool = True) -> Run:
    """Runs the selected checks. `run.died` tells that the target could not be reached, or went away."""
    run = Run(options, suite.spec, Patience(options.patience), Redactor(suite.hidden(options)))
    started = time.monotonic()
    if preflight and not run.alive():
        run.died = True
        return run
    declared = {
        name: Capability(name, state, "declared on the command line") for name, state in options.capabilities.items()
    }
    run.capabilities = {**suite.probe(run), **declared}  # what was declared is believed
    judge = Judge(run, suite, progress)
    code = _pytest(suite, judge, [])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.INTERRUPTED):
        raise RuntimeError(f"the inner pytest ended with {code}")
    run.seconds = time.monotonic() - started
    return run


class _Collector(_Names):
    """Keeps the checks that pytest finds."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self.found: list[tuple[Check, Any]] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        known = ((self._suite.check_of(_function(item)), _function(item)) for item in items)
        self.found = [(check, function) for check, function in known if check is not None]


def checks(suite: Suite) -> list[tuple[Check, Any]]:
    """All checks of a suite with their functions, in the order of the files."""
    collector = _Collector(suite)
    _pytest(suite, collector, ["--collect-only"])
    return collector.found
