"""README.md and config.toml.example say what is true: their commands are run, their tables compared with the code."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import pytest

import kcistorage
from kcistorage_parts import archives, formdata, heads, names, scrub, tokens
from kcistorage_parts.logfmt import Log
from kcistorage_parts.metrics import Metrics
from kcistorage_parts.settings import section
from kcistorage_test.conftest import SECRET, Start, token
from kcistorage_test.parts_at_hand import needs, needs_library
from kcistorage_test.test_clients import free_port
from kcistorage_test.test_handlers import until

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOP = Path(kcistorage.__file__).resolve().parent
README = (TOP / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of README in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" |")]


def rows(chapter: str) -> list[list[str]]:
    """The cells of all tables of a chapter of README, heads and rules left out."""
    (text,) = re.findall(rf"^## {re.escape(chapter)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rules = [number for number, line in enumerate(lines) if set(line) <= set("|-")]
    beside = {number - step for number in rules for step in (0, 1)}
    return [cells_of(line) for number, line in enumerate(lines) if number not in beside]


def table(title: str, page: str = README) -> list[list[str]]:
    """The cells of the table of a page whose first column has this title."""
    (text,) = re.findall(rf"^\| {title} \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    return [cells_of(line) for line in text.splitlines()]


def words(cell: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


# ---- Configuration


def settings(kind: Any = kcistorage.Config, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its dotted name and default; for a list of tables those of one of them."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        inner = hints[field.name]
        entry = getattr(inner, "__args__", [inner])[0]
        if not dataclasses.is_dataclass(inner):
            make = field.default_factory
            yield where + field.name, field.default if make is dataclasses.MISSING else make()
        if dataclasses.is_dataclass(entry):
            yield from settings(entry, f"{where}{field.name}.")


def has_key(table: Mapping[str, Any], dotted: str) -> bool:
    first, _, rest = dotted.partition(".")
    return first in table and (not rest or has_key(table[first], rest))


def test_the_example_has_every_key_at_its_default() -> None:
    """CF-2: and reads as no configuration at all would."""
    text = (TOP / "config.toml.example").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    assert section(kcistorage.Config, table) == kcistorage.Config()
    missing = [key for key, _ in settings() if not key.startswith("users") and not has_key(table, key)]
    assert missing == []


def test_the_users_of_the_example_are_users() -> None:
    """CF-2, AU-6: what stands there as a comment works once it is none."""
    text = (TOP / "config.toml.example").read_text(encoding="utf-8")
    shown = "\n".join(re.findall(r"^# (\[\[users\]\]|name = .*|prefixes = .*)$", text, re.MULTILINE))
    (user,) = section(kcistorage.Config, tomllib.loads(shown)).users
    assert user.name
    assert user.prefixes


def test_readme_has_every_key_at_its_default() -> None:
    """CF-2"""
    told: dict[str, str] = {}
    for cells in rows("Configure it"):
        if "--" not in cells[0] and "KCI_" not in "".join(cells[:2]):
            told.update(dict.fromkeys(words(cells[0]), cells[1]))
    known = dict(settings())
    assert list(told) == list(known), "in the order of the code"
    for key, default in known.items():
        if words(told[key]):
            (value,) = words(told[key])
            read = tomllib.loads(f"x = {value}")["x"]
            assert (tuple(read) if isinstance(read, list) else read) == default, key


def is_read(key: str) -> bool:
    """Whether the spine has a use for a key, or for the whole of its table."""
    table, _, field = key.partition(".")
    use = rf"config\.{table}(\.{field}\b|(?!\.?\w))" if field else rf"config\.{table}\b"
    return re.search(use, Path(kcistorage.__file__).read_text(encoding="utf-8")) is not None


def test_each_key_changes_something() -> None:
    """CF-2"""
    assert [key for key, _ in settings() if not is_read(key)] == []


@pytest.mark.parametrize("driver", kcistorage.BACKENDS)
def test_the_clouds_of_readme_can_be_configured(driver: str) -> None:
    """CF-2: a reader only has to fill in the dots."""
    (text,) = [block for block in blocks("toml") if f'driver = "{driver}"' in block]
    config = section(kcistorage.Config, tomllib.loads(f'jwt_secret = "{SECRET}"\n{text}'))
    kcistorage.check_config(config)
    if driver == "s3":
        needs_library("obstore")
    with open(os.devnull, "w") as nowhere:
        kcistorage.BACKENDS[driver](config, Log(nowhere.fileno()), 1.0, 1).close()


@pytest.mark.parametrize("text", [block for block in blocks("toml") if "driver" not in block])
def test_the_tables_of_readme_can_be_configured(text: str) -> None:
    """CF-2, UP-12, GA-4: a reader only has to fill in the dots."""
    filled = text.replace('"..."', f'"{SECRET}"')
    table = tomllib.loads(f'driver = "local"\njwt_secret = "{SECRET}"\n{filled}')
    kcistorage.check_config(section(kcistorage.Config, table))


def options() -> set[str]:
    done = subprocess.run(
        [sys.executable, str(TOP / "kcistorage.py"), "--help"], capture_output=True, text=True, timeout=30, check=True
    )
    return set(re.findall(r"--[a-z-]+", done.stdout))


def test_readme_has_every_option_and_variable() -> None:
    """CF-1"""
    told = {word.split()[0] for cells in rows("Configure it") for word in words(cells[0]) if word.startswith("--")}
    assert told == options()
    variables = set(re.findall(r'"((?:KCI_STORAGE|STORAGE)_[A-Z]+)"', Path(kcistorage.__file__).read_text()))
    assert variables == {word.split()[0] for cells in rows("Configure it") for word in words(cells[1]) if "_" in word}


# ---- Protocol


def test_readme_has_every_route() -> None:
    """ST-2"""
    told = {word for cells in rows("The protocol on a page") for word in words(cells[0]) if word.startswith("/")}
    kept = {f"/{name}" for name in kcistorage.RESERVED if not name.endswith("/")}
    assert told == kept | {"/", "/<key>"}


class Reason(NamedTuple):
    word: str
    status: int  # 0 where the source does not say


def name_of(node: ast.AST) -> str:
    """Of what is called."""
    return str(getattr(node, "id", getattr(node, "attr", "")))


def literal(node: ast.AST, kind: type[Any]) -> Any:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, kind) else None


def pairs(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """(status, reason) of a node that looks as if it had them."""
    if isinstance(node, ast.Call):
        name = name_of(node.func)
        if name in ("Refused", "BadHead", "__init__") and len(node.args) > 1:
            yield node.args[0], node.args[1]
        elif name == "_ban":  # of a gate: event, reason, exchange
            yield ast.Constant(403), node.args[1]
        elif name == "_record":  # exchange, status, reason, began
            yield node.args[1], node.args[2]
        elif name == "event":
            yield from ((node, word.value) for word in node.keywords if word.arg == "reason")
    elif isinstance(node, ast.Tuple) and len(node.elts) == 3 and literal(node.elts[0], int):  # a Refusal
        yield node.elts[0], node.elts[1]
    elif isinstance(node, ast.BoolOp) and getattr(node.values[0], "id", "") == "reason":  # reason or "..."
        yield node, node.values[1]


def reasons_of_source(path: Path) -> Iterator[Reason]:
    """The reasons that stand in a source as literals."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for status, word in pairs(node):
            if literal(word, str):
                yield Reason(literal(word, str), literal(status, int) or 0)


def reasons() -> list[Reason]:
    """Every reason of the code, as often as it is defined."""
    spine = list(reasons_of_source(TOP / "kcistorage.py"))
    status_of_head = {reason.word: reason.status for reason in reasons_of_source(TOP / "kcistorage_parts/heads.py")}
    tables: list[tuple[Mapping[str, str], Mapping[str, int]]] = [
        (names.REASONS, dict.fromkeys(names.REASONS, 400)),
        (formdata.REASONS, dict.fromkeys(formdata.REASONS, 400)),
        (archives.REASONS, {**dict.fromkeys(archives.REASONS, 400), "archive-too-large": 413}),
        (tokens.REASONS, dict.fromkeys(tokens.REASONS, 401)),
        (heads.REASONS, status_of_head),
    ]
    return spine + [Reason(word, statuses[word]) for table, statuses in tables for word in table]


# The words of the log alone: what happened when nobody was there to be told.
UNTOLD = {"client-gone", "answer-broken", "connection-failed", "housekeeping-failed"}


def test_each_reason_is_defined_once() -> None:
    """MT-1, LG-1: a word in a log leads to one line of the source."""
    counted = Counter(reason.word for reason in reasons() if reason.word not in UNTOLD)
    assert [word for word, times in counted.items() if times > 1] == []
    assert len(counted) > 50, "this test lost sight of them"
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", word) for word in counted)


def test_readme_explains_each_reason() -> None:
    """UP-4, UP-10, MT-1: with its status; and none that is no more."""
    told = {words(cells[0])[0]: cells[1:] for cells in rows("Every refusal")}
    assert set(told) == {reason.word for reason in reasons()}
    for word, status in reasons():
        if status:
            assert told[word][0] == str(status), word
    assert all(len(cells) == 3 and all(cells) for cells in told.values())
    assert len(told) == len(rows("Every refusal")), "no word twice"


def test_readme_has_every_status() -> None:
    """UP-10"""
    told = {int(code) for cells in rows("The protocol on a page") for code in re.findall(r"\b[2-5]\d\d\b", cells[0])}
    assert {reason.status for reason in reasons() if reason.word not in UNTOLD} - {0} <= told


def events_of_source(path: Path) -> Iterator[str]:
    """The events that a source logs, or has somebody log: words, where a back end is told of in sentences."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name, arguments = name_of(node.func), node.args
            if name == "partial":
                name, arguments = name_of(arguments[0]), arguments[1:]
            if name in ("event", "debug", "warn", "_warn", "_ban", "_begin"):
                strings = [literal(argument, str) or "" for argument in arguments]
                yield from [string for string in strings if re.fullmatch(r"[a-z]+([_-][a-z]+)*", string)][:1]
        elif isinstance(node, ast.Assign) and "event" in [name_of(leaf) for leaf in ast.walk(node.targets[0])]:
            choices = [leaf for leaf in ast.walk(node.value) if isinstance(leaf, ast.Tuple)]  # event, told = "...", {}
            yield from [word for choice in choices if (word := literal(choice.elts[0], str))]


def test_readme_has_every_event() -> None:
    """LG-1"""
    sources = [TOP / "kcistorage.py", *(TOP / "kcistorage_parts").glob("*.py")]
    known = {event for path in sources for event in events_of_source(path)}
    assert len(known) > 10, "this test lost sight of them"
    assert {word for cells in table("event") for word in words(cells[0])} == known


def test_readme_has_every_finding() -> None:
    """UP-12: of the scrub, but for the one that is none."""
    listed = re.findall(r"^    ([a-z-]+)  +\w", scrub.__doc__ or "", re.MULTILINE)
    assert [words(cells[0])[0] for cells in table("finding")] == [word for word in listed if word != "ok"]
    assert len(listed) > 5, "this test lost sight of them"


def test_each_event_says_what_to_do() -> None:
    """LG-1"""
    assert all(len(cells) == 3 and all(cells) for cells in table("event"))


def test_readme_has_every_metric(tmp_path: Path) -> None:
    """MT-1"""
    metrics = Metrics({"disk": str(tmp_path)}, "0", lambda: 0, lambda: 0)
    exposed = set(re.findall(r"^# TYPE (\w+)", metrics.text().decode(), re.MULTILINE))
    told = {word for cells in rows("Operate it") for word in words(cells[0]) if re.match(r"(kci)?storage_", word)}
    assert {name for name in exposed if not name.startswith("process_")} == told


def test_readme_has_every_operation() -> None:
    """MT-1: what the time in a cloud is counted by."""
    timed = re.findall(r"""\btimed\("(\w+)"\)""", (TOP / "kcistorage_parts/cloud.py").read_text(encoding="utf-8"))
    (told,) = [cells[2] for cells in table("metric") if words(cells[0]) == ["kcistorage_backend_seconds"]]
    assert set(words(told)) == set(timed)


def test_readme_has_every_part() -> None:
    """The map of the code is whole."""
    told = {word for cells in rows("The code in reading order") for word in words(cells[0])}
    assert told == {path.name for path in (TOP / "kcistorage_parts").glob("*.py")} - {"__init__.py"}


def test_links_lead_somewhere() -> None:
    titles = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    chapters = {re.sub(r"[^a-z -]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target[1:] in chapters if target.startswith("#") else (TOP / target).exists(), target


# ---- What is installed


def pins(lock: Path) -> set[str]:
    """All that a lock pins, such as `multipart==2.0.1`."""
    return set(re.findall(r"^([\w.-]+==[^\s;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))


def test_what_is_installed_was_tested() -> None:
    tested = pins(TOP / "requirements-test.lock")
    assert len(tested) > 30
    assert [pin for lock in TOP.glob("requirements*.lock") for pin in pins(lock) - tested] == []


def test_each_cloud_has_its_extra_and_its_lock() -> None:
    extras = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for driver in kcistorage.BACKENDS:
        (library,) = extras[driver]
        name = re.split("[<>=]", library)[0]
        assert name in {pin.partition("==")[0] for pin in pins(TOP / f"requirements-{driver}.lock")}
        assert f"make run EXTRAS={driver}" in README


def test_azurite_is_pinned() -> None:
    folder = TOP / "kcistorage_test" / "npm"
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]["azurite"]
    assert re.fullmatch(r"[0-9.]+", wanted)
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert packages["node_modules/azurite"]["version"] == wanted
    assert [name for name, told in packages.items() if name and "integrity" not in told] == []


# ---- Commands


def environment(**changes: str) -> dict[str, str]:
    """Ours, without what a `make` around this test tells its children."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("MAKE")}, **changes}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A fresh copy of what is needed to run; its virtual environments are this Python."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("kcistorage.py", "Makefile", "README.md", "config.toml.example", "pyproject.toml"):
        shutil.copy(TOP / name, folder)
    for name in ("kcistorage_parts", "kcistorage_test/npm"):
        shutil.copytree(TOP / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for lock in TOP.glob("requirements*.lock"):
        shutil.copy(lock, folder)
    for virtual in (".venv", ".venv-test"):
        (folder / virtual / "bin").mkdir(parents=True)
        python = folder / virtual / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        (folder / virtual / "installed").touch()  # newer than the lock: make has nothing to install
    return folder


class Ready(NamedTuple):
    """A server that `make run` started, and what it said."""

    port: int
    output: list[str]


@contextlib.contextmanager
def make_run(folder: Path) -> Iterator[Ready]:
    """The first command of README."""
    port = free_port()
    told = environment(KCI_STORAGE_HOST="127.0.0.1", KCI_STORAGE_PORT=str(port))
    process = subprocess.Popen(
        [needs("make"), "run"], cwd=folder, env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    ready = Ready(port, [])
    assert process.stdout is not None
    reader = threading.Thread(target=ready.output.extend, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        until(lambda: process.poll() is not None or any("event=start" in line for line in ready.output), 20)
        assert process.poll() is None, "".join(ready.output)
        yield ready
    finally:
        process.terminate()
        assert process.wait(20) in (0, -15), "".join(ready.output)
        reader.join(5)
        process.stdout.close()


def shell(script: str, folder: Path, port: int) -> str:
    """What a script prints that runs in `folder`, with the server at `port`; it must not fail."""
    script = script.replace("localhost:3000", f"127.0.0.1:{port}")
    command, told = ["sh", "-euc", script], environment(no_proxy="*", LC_ALL="C")
    done = subprocess.run(command, cwd=folder, env=told, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_opens_with_two_commands() -> None:
    assert re.match(r"# kcistorage\n\n```sh\nmake run\n```\n```sh\nmake test\n```\n", README)


def test_the_commands_of_readme(copy: Path) -> None:
    """UP-1, DL-1, DL-5, LS-1, AU-4, CF-3: each is run, in its order, in a fresh copy."""
    needs("curl"), needs("wget")
    first, _, *commands = blocks("sh")
    assert first == "make run\n"
    with make_run(copy) as ready:
        text = "".join(ready.output)
        pasted = re.search(r"^  (curl .*)$", text, re.MULTILINE)
        assert pasted is not None, "a line to paste"
        shell(pasted[1], copy, ready.port)
        printed = [shell(command, copy, ready.port) for command in commands]
    readme = (copy / "README.md").read_bytes()
    assert printed[0] == "Authorized: you@example.com"
    assert (copy / "storage" / "builds" / "1" / "README.md").read_bytes() == readme
    assert (copy / "whole.md").read_bytes() == (copy / "downloads" / "README.md").read_bytes() == readme
    assert (copy / "first-kilobyte.md").read_bytes() == readme[:1024]
    assert printed[-1].splitlines() == ["builds/1/README.md", "builds/2/Makefile", "builds/2/config.toml.example"]


def test_the_python_of_readme(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """UP-1"""
    needs_library("requests")
    server = start()
    (example,) = blocks("python")
    source = example.replace("localhost:3000", f"127.0.0.1:{server.port}")
    exec(compile(source, "README.md", "exec"), {"TOKEN": token()})
    assert capsys.readouterr().out == "Booting Linux\n\n"


def test_the_targets_of_readme_exist(copy: Path) -> None:
    needs("make")
    commands = re.findall(r"`(make [a-z]+(?: [A-Z]+=\w+)?)`", README)
    assert {"make run EXTRAS=azure", "make check"} < set(commands)
    for command in sorted({*commands, "make test"}):
        shell(command.replace("make", "make --dry-run"), copy, 0)
