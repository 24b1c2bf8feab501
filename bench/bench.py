#!/usr/bin/env python3
"""kcistorage beside nginx, FastAPI and a bare loop: everything in one run, on this machine, over loopback.

    small      4 KiB object, 16 kept connections (wrk)   >= 0.4 x nginx, >= 5 x FastAPI's FileResponse
    download   1 GiB object, one connection              >= 0.9 x nginx
    upload     512 MiB as multipart, stored durably      <= 1.5 x the time of a loop from socket to file, with fsync
    archive    1,000 device trees of 20 KiB, as .tar.xz  <= 3 x the time of tar xJf, and fsync of each file and folder
    memory     idle, and during 4 GiB up and down        <= 48 MiB, <= 16 MiB above it
    start      from the command to the first answer      <= 0.5 s

Only the ratios mean anything elsewhere. So each server has one process and writes an access log to a file, both of a
pair serve the same file or get the same bytes from the same client, their rounds alternate, and medians are compared.
Servers are started on free ports and ended by this script; its files lie in one temporary folder, which it removes.
A row whose tool is missing (wrk, nginx, FastAPI from a package index) says so and is left out. Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Optional

ROOT = Path(__file__).resolve().parent.parent
MIB = 1024 * 1024
BLOCK = 1 * MIB


class Sizes(NamedTuple):
    rounds: int
    wrk_seconds: int
    download: int  # bytes, as the two below
    upload: int
    trees: int
    memory: int  # bytes
    starts: int


FULL = Sizes(rounds=5, wrk_seconds=5, download=1024 * MIB, upload=512 * MIB, trees=1000, memory=4096 * MIB, starts=5)
QUICK = Sizes(rounds=3, wrk_seconds=1, download=64 * MIB, upload=32 * MIB, trees=100, memory=128 * MIB, starts=3)


class Missing(Exception):
    """A row cannot be measured here, and why."""


class Result(NamedTuple):
    """One line of the report: a value that has to be at least, or at most, the target."""

    row: str
    measured: str
    value: float
    relation: str  # ">=" or "<="
    target: float
    unit: str

    @property
    def met(self) -> bool:
        return self.value >= self.target if self.relation == ">=" else self.value <= self.target

    def __str__(self) -> str:
        verdict = "met" if self.met else "MISSED"
        value = f"{self.value:.2f} {self.unit}"
        return f"{self.row:10} {self.measured:46} {value:>16}   {self.relation} {self.target:<5g} {verdict}"


class Workplace(NamedTuple):
    folder: Path
    sizes: Sizes

    @property
    def objects(self) -> Path:
        """The objects of kcistorage, the document root of nginx, the folder of FastAPI and of the bare loop."""
        return self.folder / "storage"


def say(text: str) -> None:
    """Progress: the report alone goes to standard output."""
    print(text, file=sys.stderr, flush=True)


# ---- Files


def fill(path: Path, size: int) -> Path:
    """A file of random bytes: one block of them, again and again, is random enough for every disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    block = secrets.token_bytes(min(BLOCK, size))
    with path.open("wb") as file:
        for start in range(0, size, BLOCK):
            file.write(block[: size - start])
    return path


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


TREE_SIZE = 20 * 1024


def device_trees(count: int) -> dict[str, bytes]:
    """Files by name that .xz makes a fifth of, as it does of compiled device trees: no two of them are alike."""
    chance = random.Random(count)
    letters = b"abcdefghijklmnopqrstuvwxyz,-@"
    names = [bytes(chance.choices(letters, k=chance.randint(4, 14))) for _ in range(600)]

    def tree() -> bytes:
        properties = (b"\0\0\0\3%b\0%b" % (chance.choice(names), chance.randbytes(2)) for _ in range(TREE_SIZE // 10))
        return b"".join(properties)[:TREE_SIZE]

    return {f"dtbs/vendor{number % 40}/board-{number}.dtb": tree() for number in range(count)}


def packed(path: Path, files: Mapping[str, bytes]) -> Path:
    """A .tar.xz of these files and their folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz") as archive:
        for folder in sorted({os.path.dirname(name) for name in files}):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def require_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size * 1.2:
        raise Missing(f"{size / MIB:.0f} MiB needed in {folder}, {free / MIB:.0f} MiB free: see --folder")


# ---- Clients: sockets, so that no library's time is measured


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=300)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def answer_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head of an answer of status 200, and what came along with it."""
    received = b""
    while b"\r\n\r\n" not in received:
        block = connection.recv(64 * 1024)
        if not block:
            break
        received += block
    head, _, rest = received.partition(b"\r\n\r\n")
    if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
        raise RuntimeError(f"answered {received[:300].decode(errors='replace')!r}")
    return head, rest


def download(port: int, target: str, size: int) -> float:
    """Seconds to get an object and throw it away."""
    buffer = memoryview(bytearray(BLOCK))
    started = time.perf_counter()
    with connect(port) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        length = len(answer_head(connection)[1])
        while True:
            count = connection.recv_into(buffer)
            if not count:
                break
            length += count
    if length != size:
        raise RuntimeError(f"{length} of {size} bytes came")
    return time.perf_counter() - started


BOUNDARY = "bench-5f2c8e1a7d"
FORM_END = f"\r\n--{BOUNDARY}--\r\n".encode()


def form_start(target: str, token: str, path: str, field: str, filename: str, size: int) -> bytes:
    """All of an upload that comes before its file of so many bytes: the head of the request, and that of the part."""
    start = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="path"\r\n\r\n{path}\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{filename}"\r\n\r\n'
    )
    head = (
        f"POST {target} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(start) + size + len(FORM_END)}\r\n\r\n"
    )
    return f"{head}{start}".encode()


def sent(port: int, start: bytes, source: Path) -> float:
    started = time.perf_counter()
    with connect(port) as connection, source.open("rb") as file:
        connection.sendall(start)
        connection.sendfile(file)
        connection.sendall(FORM_END)
        answer_head(connection)
    return time.perf_counter() - started


def upload(port: int, source: Path, token: str) -> float:
    """Seconds from the connection to the 200 that says the file is stored."""
    start = form_start("/upload", token, "bench", "file0", "upload.bin", source.stat().st_size)
    return sent(port, start, source)


def upload_archive(port: int, source: Path, token: str, path: str) -> float:
    """Seconds from the connection to the 200 that says all files of the archive are stored."""
    return sent(port, form_start("/v1/archive", token, path, "archive", source.name, source.stat().st_size), source)


def requests_per_second(port: int, target: str, seconds: int) -> float:
    if not shutil.which("wrk"):
        raise Missing("wrk is not installed (apt-get install wrk)")
    command = ["wrk", "-t1", "-c16", f"-d{seconds}s", f"http://127.0.0.1:{port}{target}"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = {key.strip(): value.split() for key, _, value in (line.partition(":") for line in output.splitlines())}
    if "Non-2xx or 3xx responses" in lines:
        raise RuntimeError(f"{' '.join(lines['Non-2xx or 3xx responses'])} answers to wrk were errors")
    if "Socket errors" in lines:
        say(f"wrk: {' '.join(lines['Socket errors'])}")
    return float(lines["Requests/sec"][0])


# ---- Servers


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            return connect(port).close()
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args!r} did not start: {log.read_text()[-1000:]}") from None
            time.sleep(0.002)


class Server(NamedTuple):
    port: int
    pid: int


@contextlib.contextmanager
def running(command: Sequence[str], port: int, log: Path, **environment: str) -> Iterator[Server]:
    """A server from its first accepted connection on; leaving the block ends it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("KCI_STORAGE_", "STORAGE_"))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**inherited, **environment}
        )
    try:
        wait_until_it_answers(process, port, log)
        yield Server(port, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def kcistorage_command(work: Workplace) -> list[str]:
    config = work.folder / "config.toml"
    if not config.exists():
        storage = json.dumps(str(work.objects))  # a JSON string is a TOML string
        secret = secrets.token_hex(32)
        config.write_text(f'driver = "local"\njwt_secret = "{secret}"\n[local]\nstorage_path = {storage}\n')
    script, folder = ROOT / "kcistorage.py", work.folder
    return [sys.executable, str(script), "--config-file", str(config), "--files-directory", str(folder)]


def kcistorage(work: Workplace) -> contextlib.AbstractContextManager[Server]:
    port, log = free_port(), work.folder / "kcistorage.log"
    return running(kcistorage_command(work), port, log, KCI_STORAGE_HOST="127.0.0.1", KCI_STORAGE_PORT=str(port))


def token(work: Workplace) -> str:
    command = [*kcistorage_command(work), "--generate-jwt-token", "bench@example.org"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


NGINX_CONFIG = """
{user}
daemon off;
worker_processes 1;
pid "{folder}/nginx.pid";
error_log "{folder}/nginx-error.log";
events {{ worker_connections 256; }}
http {{
    access_log "{folder}/nginx-access.log";
    client_body_temp_path "{folder}/nginx-body";
    proxy_temp_path "{folder}/nginx-proxy";
    fastcgi_temp_path "{folder}/nginx-fastcgi";
    uwsgi_temp_path "{folder}/nginx-uwsgi";
    scgi_temp_path "{folder}/nginx-scgi";
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    server {{ listen 127.0.0.1:{port}; root "{root}"; }}
}}
"""


def nginx(work: Workplace) -> contextlib.AbstractContextManager[Server]:
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not program:
        raise Missing("nginx is not installed (apt-get install nginx-light)")
    port, config = free_port(), work.folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # else the worker may not read the temporary folder
    config.write_text(NGINX_CONFIG.format(user=user, folder=work.folder, port=port, root=work.objects))
    return running([program, "-c", str(config), "-p", str(work.folder)], port, work.folder / "nginx.log")


FASTAPI_APP = """
from fastapi import FastAPI
from fastapi.responses import FileResponse

app = FastAPI()

@app.get("/{{path:path}}")
async def download(path: str) -> FileResponse:
    return FileResponse({root!r} + "/" + path)
"""


def fastapi_python() -> str:
    """The interpreter of a virtual environment with FastAPI, which is made at the first call ever."""
    folder = ROOT / ".venv-bench"
    python, installed = folder / "bin" / "python", folder / "installed"
    if not installed.exists():
        say("fastapi: installing it into .venv-bench")
        try:
            environment = [sys.executable, "-m", "venv", "--clear", str(folder)]
            subprocess.run(environment, check=True, capture_output=True, text=True)
            install = [str(python), "-m", "pip", "install", "--quiet", "fastapi", "uvicorn[standard]"]
            subprocess.run(install, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            reason = (error.stderr or error.stdout).strip().splitlines() or [str(error)]
            raise Missing(f"FastAPI could not be installed: {reason[-1]}") from None
        installed.touch()
    return str(python)


def fastapi(work: Workplace) -> contextlib.AbstractContextManager[Server]:
    port, python = free_port(), fastapi_python()
    (work.folder / "fastapi_app.py").write_text(FASTAPI_APP.format(root=str(work.objects)))
    command = [python, "-m", "uvicorn", "fastapi_app:app", "--app-dir", str(work.folder)]
    return running([*command, "--host", "127.0.0.1", "--port", str(port)], port, work.folder / "fastapi.log")


def serve_bare(port: int, path: Path) -> None:
    """The least that an upload can cost: from the socket into a file, fsync, 200. Nothing is parsed but the length."""
    buffer = memoryview(bytearray(BLOCK))
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection, path.open("wb", buffering=0) as file:
                received = b""
                while b"\r\n\r\n" not in received:
                    block = connection.recv(BLOCK)
                    if not block:
                        break
                    received += block
                head, _, rest = received.partition(b"\r\n\r\n")
                if not head:
                    continue  # somebody asked whether it is up
                left = int(head.lower().partition(b"content-length:")[2].split()[0]) - len(rest)
                file.write(rest)
                while left > 0:
                    count = connection.recv_into(buffer)
                    left -= file.write(buffer[:count])
                os.fsync(file.fileno())
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def bare_loop(work: Workplace) -> contextlib.AbstractContextManager[Server]:
    port = free_port()
    command = [sys.executable, __file__, "--serve-bare", str(port), str(work.objects / "bare.bin")]
    return running(command, port, work.folder / "bare.log")


# ---- Rows

Measure = Callable[[], float]


def alternate(row: str, rounds: int, measures: Mapping[str, Measure], unit: str) -> dict[str, float]:
    """The median of each, measured in turn, so that a change of the machine's mood meets all of them alike."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(1, rounds + 1):
        for name, measure in measures.items():
            os.sync()  # what one round left to be written is not the next one's to pay
            values[name].append(measure())
        shown = ", ".join(f"{name} {values[name][-1]:,.2f}" for name in measures)
        say(f"{row}: round {number} of {rounds}: {shown} {unit}")
    return {name: statistics.median(each) for name, each in values.items()}


def compared(row: str, medians: Mapping[str, float], other: str, relation: str, target: float, unit: str) -> Result:
    ours, theirs = medians["kcistorage"], medians[other]
    digits = 2 if unit == "s" else 0
    measured = f"kcistorage {ours:,.{digits}f} {unit}, {other} {theirs:,.{digits}f} {unit}"
    return Result(row, measured, ours / theirs, relation, target, f"x {other}")


def small(work: Workplace) -> Iterator[Result]:
    fill(work.objects / "bench" / "small.bin", 4096)
    measures: dict[str, Measure] = {}
    with contextlib.ExitStack() as stack:
        for name, server in (("kcistorage", kcistorage), ("nginx", nginx), ("fastapi", fastapi)):
            try:
                port = stack.enter_context(server(work)).port
            except Missing as missing:
                print(f"{'small':10} {name} left out: {missing}")
            else:
                measures[name] = partial(requests_per_second, port, "/bench/small.bin", work.sizes.wrk_seconds)
        medians = alternate("small", work.sizes.rounds, measures, "requests/s")
    for name, target in (("nginx", 0.4), ("fastapi", 5.0)):
        if name in medians:
            yield compared("small", medians, name, ">=", target, "/s")


def large(work: Workplace) -> Iterator[Result]:
    size = work.sizes.download
    require_space(work.folder, size)
    path = fill(work.objects / "bench" / "large.bin", size)
    with kcistorage(work) as ours, nginx(work) as theirs:
        measures: dict[str, Measure] = {
            "kcistorage": lambda: size / MIB / download(ours.port, "/bench/large.bin", size),
            "nginx": lambda: size / MIB / download(theirs.port, "/bench/large.bin", size),
        }
        medians = alternate("download", work.sizes.rounds, measures, "MiB/s")
    path.unlink()
    yield compared("download", medians, "nginx", ">=", 0.9, "MiB/s")


def form(work: Workplace) -> Iterator[Result]:
    require_space(work.folder, 3 * work.sizes.upload)
    source, bearer = fill(work.folder / "source.bin", work.sizes.upload), token(work)
    with kcistorage(work) as ours, bare_loop(work) as theirs:
        measures: dict[str, Measure] = {
            "kcistorage": lambda: upload(ours.port, source, bearer),
            "bare loop": lambda: upload(theirs.port, source, bearer),
        }
        medians = alternate("upload", work.sizes.rounds, measures, "s")
    source.unlink()
    yield compared("upload", medians, "bare loop", "<=", 1.5, "s")


def untar(source: Path, folder: Path) -> float:
    """Seconds for tar, and to make durable what it has unpacked."""
    folder.mkdir()
    started = time.perf_counter()
    subprocess.run(["tar", "xJf", str(source), "-C", str(folder)], check=True)
    for parent, _, names in os.walk(folder):
        for path in (parent, *(os.path.join(parent, name) for name in names)):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    return time.perf_counter() - started


def archive(work: Workplace) -> Iterator[Result]:
    if not shutil.which("xz"):
        raise Missing("tar needs xz (apt-get install xz-utils)")
    source, bearer = packed(work.folder / "dtbs.tar.xz", device_trees(work.sizes.trees)), token(work)
    folders = (f"round{number}" for number in itertools.count())  # nothing that is there is replaced
    with kcistorage(work) as ours:
        measures: dict[str, Measure] = {
            "kcistorage": lambda: upload_archive(ours.port, source, bearer, next(folders)),
            "tar": lambda: untar(source, work.folder / next(folders)),
        }
        medians = alternate("archive", work.sizes.rounds, measures, "s")
    yield compared("archive", medians, "tar", "<=", 3.0, "s")


def status_mib(pid: int, field: str) -> float:
    """VmRSS or VmHWM, its peak, of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise Missing(f"/proc/{pid}/status has no {field}")


def peak_mib(pid: int, during: Measure) -> float:
    """The most memory that a process held meanwhile. proc(5): a 5 in clear_refs sets the peak back."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    during()
    return status_mib(pid, "VmHWM")


def memory(work: Workplace) -> Iterator[Result]:
    if not Path("/proc/self/clear_refs").exists():
        raise Missing("/proc of Linux is needed")
    size = work.sizes.memory
    require_space(work.folder, size)
    source, bearer = sparse(work.folder / "sparse.bin", size), token(work)
    with kcistorage(work) as server:
        idle = status_mib(server.pid, "VmRSS")
        say(f"memory: idle {idle:.1f} MiB; uploading {size / MIB:.0f} MiB")
        up = peak_mib(server.pid, lambda: upload(server.port, source, bearer))
        say(f"memory: up to {up:.1f} MiB; downloading it")
        down = peak_mib(server.pid, lambda: download(server.port, "/bench/upload.bin", size))
    (work.objects / "bench" / "upload.bin").unlink()
    yield Result("memory", "kcistorage idle", idle, "<=", 48, "MiB")
    yield Result("memory", f"above idle while {size / MIB:,.0f} MiB come in", up - idle, "<=", 16, "MiB")
    yield Result("memory", f"above idle while {size / MIB:,.0f} MiB go out", down - idle, "<=", 16, "MiB")


def start_seconds(work: Workplace) -> float:
    started = time.perf_counter()
    with kcistorage(work) as server, connect(server.port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        answer_head(connection)
        return time.perf_counter() - started


def start(work: Workplace) -> Iterator[Result]:
    medians = alternate("start", work.sizes.starts, {"kcistorage": lambda: start_seconds(work)}, "s")
    yield Result("start", "kcistorage from command to answer", medians["kcistorage"], "<=", 0.5, "s")


Rows = Mapping[str, Callable[[Workplace], Iterator[Result]]]
ROWS: Rows = {
    "small": small,
    "download": large,
    "upload": form,
    "archive": archive,
    "memory": memory,
    "start": start,
}


# ---- Command line


def parser_for(description: str, rows: Iterable[str]) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    known = list(rows)

    def chosen(text: str) -> list[str]:
        unknown = set(text.split(",")) - set(known)
        if unknown:
            names = ", ".join(sorted(unknown))
            raise argparse.ArgumentTypeError(f"no row is called {names}; there are {', '.join(known)}")
        return text.split(",")

    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", metavar="ROW,...", type=chosen, default=known, help=f"of {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, short rounds: shows that it runs, not more")
    parser.add_argument("--folder", metavar="DIR", help="where the temporary folder is made; default %(default)s")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results there, too")
    return parser


def run(work: Workplace, rows: Rows, names: Sequence[str]) -> tuple[list[Result], bool]:
    """What was measured, each printed as soon as it is known, and whether nothing failed and all targets were met."""
    results: list[Result] = []
    failed = False
    for row in names:
        try:
            for result in rows[row](work):
                print(result, flush=True)
                results.append(result)
        except Missing as missing:
            print(f"{row:10} left out: {missing}", flush=True)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            failed = True
            print(f"{row:10} FAILED: {error}", flush=True)
    return results, not failed and all(result.met for result in results)


def written(path: Optional[Path], rows: Sequence[Mapping[str, object]]) -> None:
    if path:
        path.write_text(json.dumps(rows, indent=2) + "\n")


def measure(options: argparse.Namespace, sizes: Sizes, rows: Rows) -> int:
    """0 when every target that was measured is met, else 1."""
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # ends the servers and removes the folder as well
    with tempfile.TemporaryDirectory(prefix="kcistorage-bench-", dir=options.folder) as folder:
        work = Workplace(Path(folder), sizes)
        work.objects.mkdir()
        results, good = run(work, rows, options.only)
    written(options.json, [{**result._asdict(), "met": result.met} for result in results])
    return 0 if good else 1


def parse_arguments() -> argparse.Namespace:
    parser = parser_for("kcistorage beside nginx, FastAPI and a bare loop.", ROWS)
    parser.add_argument("--memory-mib", type=int, metavar="N", help="size of the memory row's object; default 4096")
    parser.add_argument("--serve-bare", nargs=2, metavar=("PORT", "FILE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    if options.serve_bare:
        serve_bare(int(options.serve_bare[0]), Path(options.serve_bare[1]))
    sizes = QUICK if options.quick else FULL
    if options.memory_mib:
        sizes = sizes._replace(memory=options.memory_mib * MIB)
    return measure(options, sizes, ROWS)


if __name__ == "__main__":
    sys.exit(main())
