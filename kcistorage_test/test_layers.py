"""The shape of the code, read from its syntax trees: who imports whom, what stands above what, what is in no file.

A rule is a function from a text to what is wrong with it. Of each rule's two tests the first plants faults, so that the
rule is known to bite, and the second holds our own files against it.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("kcistorage_parts", "kcistorage_test", "bench", "conformance")
SOURCES = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]


def faults(rule: Callable[[str], list[str]], paths: Iterable[Path]) -> dict[str, list[str]]:
    """What a rule finds, by file."""
    found = {path.relative_to(ROOT).as_posix(): rule(path.read_text(errors="replace")) for path in paths}
    return {name: wrong for name, wrong in found.items() if wrong}


# ---- Imports: a part stands on the standard library, its own library and files.py, the spine on its parts

TOML = {"tomllib", "tomli"}
LIBRARIES = {  # the other parts need none
    "formdata.py": {"multipart"},
    "tokens.py": {"jwt"},
    "challenge.py": {"jwt"},
    "metrics.py": {"prometheus_client", "psutil"},
    "azure.py": {"azure"},
    "s3.py": {"obstore"},
    "locations.py": {"pymemcache"},
}
# The parts that stand on others of ours, their pieces: with them the cloud driver would have 900 lines, and none of
# these could be read or tested alone.
PIECES = {
    "azure.py": {"kcistorage_parts.connections"},
    "s3.py": {"kcistorage_parts.connections"},
    "cloud.py": {f"kcistorage_parts.{name}" for name in ("fills", "folders", "leases")},
    "bucket.py": {"kcistorage_parts.fills"},
}
# What all parts may stand on that store files: the third of them would have had the same lines once more.
GROUND = "kcistorage_parts.files"
STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()


@cache
def is_standard(module: str) -> bool:
    """Whether this top-level module comes with Python (3.10 has a list of them, 3.9 has not)."""
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or spec.origin is None:
        return False
    folders = Path(spec.origin).resolve().parents
    return spec.origin in ("built-in", "frozen") or (
        STANDARD_LIBRARY in folders and "site-packages" not in {folder.name for folder in folders}
    )


def imports(tree: ast.AST) -> Iterator[str]:
    """The dotted names of all that is imported anywhere below."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def is_below(name: str, packages: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def foreign(source: str, allowed: set[str]) -> list[str]:
    """What is imported and neither standard nor allowed; a relative import counts as the empty name."""
    names = {name.partition(".")[0] for name in imports(ast.parse(source)) if not is_below(name, allowed)}
    return sorted(name for name in names if not is_standard(name))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os, json.encoder\nfrom multipart import PushMultipartParser", []),
        ("import kcistorage", ["kcistorage"]),
        ("def f():\n    from kcistorage_parts.names import storage_key", ["kcistorage_parts"]),
        ("from kcistorage_parts import fills\nfrom kcistorage_parts.fills import Fill", []),
        ("from kcistorage_parts import fills, filled", ["kcistorage_parts"]),
        ("import multipart_form", ["multipart_form"]),
        ("from . import names", [""]),
        ("import pytest.x", ["pytest"]),
        ("if True:\n    import no_such_module", ["no_such_module"]),
    ],
)
def test_foreign_imports_are_found(source: str, found: list[str]) -> None:
    assert foreign(source, {"multipart", "kcistorage_parts.fills"}) == found


def test_imports_go_one_way() -> None:
    parts = {path.name: path for path in SOURCES if path.parent.name == "kcistorage_parts"}
    assert {*LIBRARIES, *PIECES} < set(parts)
    for name, path in parts.items():
        allowed = {*LIBRARIES.get(name, ()), *PIECES.get(name, ()), *([GROUND] if name != "files.py" else [])}
        assert faults(partial(foreign, allowed=allowed), [path]) == {}
    pieces = {piece.rpartition(".")[2] + ".py" for part in PIECES.values() for piece in part}
    assert pieces < set(parts) - set(PIECES), "they are there, and have no pieces themselves"
    # Neither stor nor artifactapi: a script that is imported back is loaded twice, and `except` misses.
    assert faults(partial(foreign, allowed={"kcistorage_parts", *TOML}), [ROOT / "kcistorage.py"]) == {}
    assert faults(partial(foreign, allowed={"kcistorage", "kcistorage_parts"}), [ROOT / "stor.py"]) == {}


# ---- Clouds load where they are configured: their libraries cost time and memory, and may be missing

CLOUD_LIBRARIES = {"azure", "boto3", "botocore", "minio", "obstore", "pymemcache"}
CLOUD_PARTS = {piece for pieces in PIECES.values() for piece in pieces} | {
    f"kcistorage_parts.{name}" for name in ("azure", "bucket", "cache", "cloud", "eviction", "s3")
}
# The parts that load their library at once. (azure.py waits until it has to sign with the key of an account.)
LOADS = {"kcistorage_parts.s3": "obstore"}


def eager(body: Iterable[ast.AST], packages: Iterable[str]) -> list[str]:
    """What is imported of these packages without being asked for: outside of any function, and not for types alone."""
    for_types = "if TYPE_CHECKING:"
    outside = [node for node in body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    outside = [node for node in outside if not ast.unparse(node).startswith(for_types)]
    return [name for node in outside for name in imports(node) if is_below(name, packages)]


def eager_cloud(source: str) -> list[str]:
    return eager(ast.parse(source).body, CLOUD_LIBRARIES | CLOUD_PARTS)


def looked_for(node: ast.AST) -> list[str]:
    """The library without which this statement ends a test file: `needs_library("...")`."""
    call = getattr(node, "value", None)
    if not isinstance(call, ast.Call) or getattr(call.func, "id", "") != "needs_library":
        return []
    return [ast.literal_eval(call.args[0])]


def unguarded(source: str) -> list[str]:
    """What a test imports at once and not below a `needs_library` of what it needs, so that no test can be skipped."""
    found, at_hand = [], []
    for node in ast.parse(source).body:
        at_hand += looked_for(node)
        for name in eager([node], [*CLOUD_LIBRARIES, *LOADS]):
            library = next((LOADS[part] for part in LOADS if is_below(name, [part])), name)
            found += [] if is_below(library, at_hand) else [name]
    return found


AT_ONCE = [
    "import boto3",
    "from azure.storage import blob",
    "from kcistorage_parts import s3",
    "from kcistorage_parts.s3 import S3Backend",
    "if x:\n    import minio",
]


def later(source: str) -> str:
    return "def driver():\n    " + source.replace("\n", "\n    ")


@pytest.mark.parametrize("source", [*AT_ONCE, "from kcistorage_parts import azure", "import kcistorage_parts.cloud"])
def test_eager_imports_of_clouds_are_found(source: str) -> None:
    assert len(eager_cloud(source)) == 1
    assert eager_cloud(later(source)) == []
    assert eager_cloud("from kcistorage_parts import local, s3_like\nimport azurite") == []
    assert eager_cloud("if TYPE_CHECKING:\n    " + source.replace("\n", "\n    ")) == []


def test_clouds_load_where_they_are_configured() -> None:
    assert faults(eager_cloud, [path for path in SOURCES if path.parent == ROOT or "conformance" in path.parts]) == {}
    parts = {path: f"kcistorage_parts.{path.stem}" for path in SOURCES if path.parent.name == "kcistorage_parts"}
    loading = {part: eager(ast.parse(path.read_text()).body, CLOUD_LIBRARIES) for path, part in parts.items()}
    assert {part: names[0] for part, names in loading.items() if names} == LOADS


@pytest.mark.parametrize("source", AT_ONCE)
def test_unguarded_imports_of_clouds_are_found(source: str) -> None:
    assert len(unguarded(source)) == 1
    assert len(unguarded(f"{source}\nneeds_library('boto3')")) == 1, "too late"
    assert len(unguarded(f"def f():\n    needs_library('boto3')\n{source}")) == 1, "not for the file"
    assert len(unguarded(f"needs_library('boto4')\n{source}")) == 1, "another one"
    assert unguarded(later(source)) == []


@pytest.mark.parametrize(
    "source",
    [
        "needs_library('obstore')\nfrom kcistorage_parts.s3 import S3Backend",
        "obstore = needs_library('obstore')\nimport obstore.store",
        "needs_library('azure.storage.blob')\nfrom azure.storage.blob import BlobClient",
        "from kcistorage_parts import azure",
    ],
)
def test_guarded_imports_of_clouds_are_not(source: str) -> None:
    assert unguarded(source) == []


def test_tests_are_skipped_where_a_library_is_missing() -> None:
    tests = [path for path in SOURCES if path.parent.name in ("kcistorage_test", "bench")]
    assert {"test_azure.py", "test_s3.py"} < {path.name for path in tests}
    assert faults(unguarded, tests) == {}


# ---- Order: a name is defined above its first use

# Two functions that call each other cannot both stand above the other.
MUTUAL = {"kcistorage_parts/settings.py": {"converted"}}

Comprehension = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
Function = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def bound(node: ast.AST) -> Iterator[tuple[str, int]]:
    """The names bound in the scope of a node, with their lines; scopes inside of it keep theirs."""
    for child in ast.iter_child_nodes(node):
        line = getattr(child, "lineno", 0)
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield child.name, line
        elif isinstance(child, ast.alias):
            yield child.asname or child.name.partition(".")[0], getattr(node, "lineno", 0)
        elif isinstance(child, ast.arg):
            yield child.arg, line
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id, line
        elif isinstance(child, ast.ExceptHandler) and child.name:
            yield child.name, line
        if not isinstance(child, (*Function, *Comprehension, ast.ClassDef)):
            yield from bound(child)


def used(node: ast.AST, local: frozenset[str] = frozenset()) -> Iterator[tuple[str, int]]:
    """The names below that no function around them binds, with their lines. Annotations name, they do not use."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in local:
        yield node.id, node.lineno
    inner = {name for name, _ in bound(node)} if isinstance(node, (*Function, *Comprehension)) else set()
    annotations = (getattr(node, "annotation", None), getattr(node, "returns", None))
    for child in ast.iter_child_nodes(node):
        if child not in annotations:
            yield from used(child, local | inner)


def used_above(source: str) -> list[str]:
    """The names that a module uses above the line that defines them."""
    tree = ast.parse(source)
    lines: dict[str, int] = {}
    for name, line in bound(tree):
        lines[name] = min(line, lines.get(name, line))
    return sorted({name for name, line in used(tree) if line < lines.get(name, 0)})


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    return g()\ndef g(): ...",
        "class A:\n    def f(self):\n        return g\ng = 3",
        "def f():\n    return [g(n) for n in ()]\ng = print",
        "f = lambda: g\ng = 1",
        "def f(n=g): ...\nfrom m import g",
        "async def f():\n    g()\nif True:\n    import g",
    ],
)
def test_uses_above_the_definition_are_found(source: str) -> None:
    assert used_above(source) == ["g"]


@pytest.mark.parametrize(
    "source",
    [
        "class g:\n    def f(self) -> g: ...",
        "def f(x: g) -> g: ...\nclass A:\n    b: g\nclass g: ...",
        "def f(g):\n    return g\ndef g(): ...",
        "def f():\n    g = 1\n    return lambda: g\ndef g(): ...",
        "def f():\n    def g(): ...\n    return g()\ndef g(): ...",
        "def f():\n    return [g for g in ()]\ng = 1",
        "def f():\n    for g in (): print(g)\n    try: f()\n    except E as h: h()\ng = h = 1",
        "import os\ndef f(): return os.g\ndef g(): ...",
    ],
)
def test_names_of_inner_scopes_are_no_such_use(source: str) -> None:
    assert used_above(source) == []


def test_a_name_is_defined_above_its_first_use() -> None:
    found = faults(used_above, SOURCES)
    assert {name: rest for name, uses in found.items() if (rest := set(uses) - MUTUAL.get(name, set()))} == {}


# ---- Size

LONGEST = 60  # lines


def too_long(source: str) -> list[str]:
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, Function[:2])]
    return [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= LONGEST]


def test_long_functions_are_found() -> None:
    assert too_long("def f():\n" + "    ...\n" * 59) == []
    assert too_long("class A:\n  async def f():\n" + "    ...\n" * 60) == ["f"]


def test_no_function_is_long() -> None:
    assert faults(too_long, SOURCES) == {}


# ---- What is in no file

FORBIDDEN = (  # brackets keep these lines from matching themselves
    ("a folder of one machine", r"(?<![\w.}])/(?:[r]oot|[w]ork|home/[a-z]+|Users/[A-Z]\w*|tmp/[w])/[\w.-]"),
    ("the address of a registry", r"[p]ypi\.org|[p]ythonhosted\.org|[r]egistry\.npmjs|[d]eb\.debian\.org|[i]ndex-url"),
    ("where a package came from", r'"[r]esolved": *"'),
    ("a private key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}"),
    ("a token", r"\beyJ[\w-]{12,}\.eyJ[\w-]{8,}\.[\w-]{40,}"),
    ("a key to a cloud", r"\bAKIA[0-9A-Z]{16}\b|AccountKey=[A-Za-z0-9+/]{40}"),
)


def forbidden(text: str) -> list[str]:
    return [what for what, pattern in FORBIDDEN if re.search(pattern, text)]


@cache
def project_files() -> list[Path]:
    """What is committed or would be; of a copy without git, all but what is hidden or built."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, check=False).stdout.decode().split("\0")
    files = [ROOT / name for name in listed if name] or [*SOURCES, *ROOT.glob("[A-Za-z]*")]
    return [path for path in files if path.is_file()]


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        (("cd /", "root/x"), "a folder of one machine"),
        (("open('/", "home/ann/x')"), "a folder of one machine"),
        (("https://py", "pi.org/simple"), "the address of a registry"),
        (('"resol', 'ved": "https://example.org/x.tgz"'), "where a package came from"),
        (("-----BEGIN RSA PRIVATE KEY", "-----\n" + "A" * 64), "a private key"),
        (("Bearer eyJhbGciOiJIUzI1NiJ9", ".eyJlbWFpbCI6ImEifQ." + "x" * 43), "a token"),
        (("AK", "IAABCDEFGH12345678"), "a key to a cloud"),
    ],
)
def test_forbidden_text_is_found(parts: tuple[str, str], found: str) -> None:
    assert forbidden("".join(parts)) == [found]
    assert forbidden(" ".join(parts)) == []


def test_no_file_holds_what_is_of_one_machine_or_person() -> None:
    assert {ROOT / "Makefile", ROOT / "kcistorage.py"} <= set(project_files())
    assert faults(forbidden, project_files()) == {}


def test_no_folder_shadows_the_spine() -> None:
    """Python would import a folder of that name in place of the file."""
    assert [path for path in project_files() if "kcistorage" in path.relative_to(ROOT).parts[:-1]] == []
