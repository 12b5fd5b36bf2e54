"""A `python` for the tests' programs, forked from a process that has imported the large libraries.

Importing torch, Lightning, MLflow and timm takes longer than most of the tests' programs. One process imports
them and forks for each program, which then imports the project's own modules. (The fork server of
`multiprocessing` does this for functions; this one runs whole programs, including DVC's stages.)
"""

import array
import atexit
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import types
from contextlib import suppress
from pathlib import Path

LIBRARIES = (
    *("torch", "torchvision", "torchmetrics", "pytorch_lightning", "timm", "albumentations", "mlflow"),
    *("hydra", "pandas", "sklearn.linear_model", "matplotlib.pyplot", "onnx", "rich.table", "pygments"),
    # What these import at their first use: MLflow's store, torch's export and DVC's commands.
    *("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"),
    *("alembic.context", "dvc.cli.parser", "dvc.repo.reproduce", "networkx", "onnxruntime"),
    *("torch.onnx._internal.exporter._core", "torch.export._trace"),
    *("onnxscript", "onnxscript.function_libs.torch_lib.ops"),
)
# Read when Python starts or a library is imported: a program with other values gets an ordinary Python.
VARIABLES = (
    *("PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONWARNINGS", "LANG", "LC_ALL", "HOME"),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MPLBACKEND", "TORCH_HOME", "XDG_CACHE_HOME"),
    *("HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE"),
)
CLIENT = """#!{python} -IS
import array, json, os, signal, socket, sys

arguments = [*{leading}, *sys.argv[1:]]

def start(server):
    request = {{"argv": arguments, "cwd": os.getcwd(), "environment": dict(os.environ)}}
    data = json.dumps(request).encode()
    streams = array.array("i", (0, 1, 2))
    server.sendmsg([len(data).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
    server.sendall(data)
    lines = server.makefile()
    pid = int(lines.readline())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: os.kill(pid, number))
    return int(lines.readline())

same = all(os.environ.get(name) == value for name, value in {variables}.items())
server = socket.socket(socket.AF_UNIX)
first, second, *_ = *arguments, "", ""
ours = first == "-c" or first.endswith(".py") or first == "-m" and second.startswith(("pipeline", "dvc"))
if not (ours and same) or server.connect_ex("{address}"):
    os.execv("{python}", ["{python}", *arguments])
status = start(server)
if os.WIFSIGNALED(status):
    if os.WTERMSIG(status) != signal.SIGKILL:
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
    os.kill(os.getpid(), os.WTERMSIG(status))
os._exit(os.waitstatus_to_exitcode(status))
"""


def dont_wait_for_the_disk() -> None:
    """MLflow's stores in this process are not flushed to the disk: of a test, none outlives a power failure.

    Flushing takes five of the six seconds in which a store is created. A killed process loses nothing by it.
    """
    from sqlalchemy import Engine, event

    @event.listens_for(Engine, "connect")
    def _(connection: object, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):  # and not a server's
            with suppress(sqlite3.Error):  # no database, or a locked one: the program finds out itself
                connection.execute("PRAGMA synchronous = OFF")


def install(folder: Path, parent: int) -> None:
    """Writes the clients and starts the server, unless another process has done so.

    Args:
        folder: of the test session; the clients are ``bin/python`` and ``bin/dvc`` in it.
        parent: pid of the session's process; the server exits when that does.

    A client passes its arguments, environment, working directory and standard streams to the server, and
    exits as the fork does. Until the server is ready, and for other programs, it runs an ordinary Python.
    """
    try:
        (folder / "bin").mkdir(parents=True)
    except FileExistsError:
        return
    address = folder / "socket"
    variables = {name: os.environ.get(name) for name in VARIABLES}
    for name, leading in (("dvc", ["-m", "dvc"]), ("python", [])):
        client = folder / "bin" / name
        client.write_text(
            CLIENT.format(python=sys.executable, variables=variables, address=address, leading=leading)
        )
        client.chmod(0o755)
    quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.Popen([sys.executable, __file__, address, str(parent), client], env={**os.environ, **quiet})


def _receive(connection: socket.socket) -> tuple[dict, list[int]]:
    """A client's request, and its standard streams."""
    size, ancillary, *_ = connection.recvmsg(8, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    streams = array.array("i")
    streams.frombytes(ancillary[0][2])
    length = int.from_bytes(size, "big")
    data = b""
    while len(data) < length:
        if not (part := connection.recv(length - len(data))):
            raise ConnectionError("the client has ended")
        data += part
    return json.loads(data), list(streams)


def serve(address: str, parent: int) -> tuple[dict, list[int]]:
    """Forks for clients until the process `parent` ends; returns the request and its streams in the forks."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    running: dict[socket.socket, int] = {}
    while Path(f"/proc/{parent}").exists():
        for key, _ in selector.select(timeout=5):
            if key.fileobj is listener:
                connection, _ = listener.accept()
                try:
                    request, streams = _receive(connection)
                except (OSError, IndexError):  # the client was killed
                    connection.close()
                    continue
                if not (pid := os.fork()):
                    selector.close()
                    for each in (listener, connection, *running):
                        each.close()
                    return request, streams
                for stream in streams:
                    os.close(stream)
                with suppress(OSError):
                    connection.sendall(f"{pid}\n".encode())
                running[connection] = pid
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, connection)
                selector.register(connection, selectors.EVENT_READ)
            elif key.data is None:  # the client was killed
                if key.fileobj not in running:
                    continue  # its program has already ended
                selector.unregister(key.fileobj)
                with suppress(ProcessLookupError):
                    os.kill(running[key.fileobj], signal.SIGKILL)
            else:
                connection = key.data
                _, status = os.waitpid(running.pop(connection), 0)
                with suppress(OSError):
                    connection.sendall(f"{status}\n".encode())
                selector.unregister(key.fd)
                os.close(key.fd)
                with suppress(KeyError):
                    selector.unregister(connection)
                connection.close()
    os._exit(0)  # a library would list the objects that are left


def main() -> None:
    paths = sys.path[1:]  # without this file's folder
    for library in LIBRARIES:
        importlib.import_module(library)
    dont_wait_for_the_disk()
    gc.freeze()  # the forks' garbage collection leaves these objects, and the memory they share, alone
    address, parent, sys.executable = sys.argv[1:]  # so that a program's own children are forked, too
    request, streams = serve(address, int(parent))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # The server's own stream objects keep the buffering of the files they were opened on.
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)))
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w", closefd=False)), errors="backslashreplace", line_buffering=True
    )
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:] = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *paths]
    try:
        _run(*request["argv"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int | None) else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        status = 1
        sys.excepthook(*sys.exc_info())
    else:
        status = 0
    # Exits as multiprocessing's forks do: the libraries' own clean-up would wait for the server's threads.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def _run(kind: str, *arguments: str) -> None:
    """Runs a program as Python does with these arguments."""
    if kind == "-m":
        sys.path.insert(0, str(Path.cwd()))
        sys.argv[1:] = arguments[1:]
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path.insert(0, "")
        sys.argv[:] = [kind, *arguments[1:]]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[0], "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        sys.path.insert(0, str(Path(kind).resolve().parent))
        sys.argv[:] = [kind, *arguments]
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    main()
