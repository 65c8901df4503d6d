"""A Python that has imported the libraries of all commands: a server that forks a process for each that is started.

`executable()` is a path to be used as `sys.executable` is. It starts a client of a few milliseconds, which hands its
words, folder, environment and open files to the server, ends as its process ends, and takes it along when it is killed.
What looks at Python's own start, at Ctrl-C or at process ids needs `sys.executable`.
"""

from __future__ import annotations

import atexit
import contextlib
import marshal
import os
import signal
import socket
import sys
from functools import cache

MANY = 500  # no process has more files open
exit_code: list[int] = []


@cache
def executable() -> str:
    """Return the client's path; the server starts with the first call, and ends with this process."""
    if not hasattr(os, "pidfd_open"):
        return sys.executable
    import subprocess
    import tempfile

    folder = tempfile.TemporaryDirectory(prefix="warm-")
    path = os.path.join(folder.name, "python")
    with open(path, "w") as script:
        script.write(f"#!/bin/sh\nexec '{sys.executable}' -IS '{__file__}' '{path}.socket' \"$@\"\n")
    os.chmod(path, 0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.socket")
        listener.listen(100)
        server = subprocess.Popen(
            [sys.executable, __file__, "serve", str(listener.fileno()), path],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    atexit.register(folder.cleanup)
    atexit.register(server.communicate)
    return path


def ask(address: str, words: list[str]) -> int:
    """Have a process run on this one's files; return its exit code, or end by the signal that ended it."""
    files = [int(name) for name in os.listdir("/proc/self/fd")]
    files = [file for file in files if os.path.exists(f"/proc/self/fd/{file}")]  # not of the listing itself
    request = marshal.dumps((words, os.getcwd(), dict(os.environ), files, os.getpid()))
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [len(request).to_bytes(8, "big")], files)
        server.sendall(request)
        code = int.from_bytes(server.recv(8), "big", signed=True)
    if code < 0:
        with contextlib.suppress(OSError):  # nobody can handle SIGKILL
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def serve(listener: socket.socket) -> list[str]:
    """Fork a process for each client until standard input ends; return in those, with the words of each."""
    import selectors

    events = selectors.DefaultSelector()
    events.register(listener, selectors.EVENT_READ)
    events.register(0, selectors.EVENT_READ)
    processes: dict[socket.socket, tuple[int, int]] = {}  # their ids and what tells of their ends, by client
    while True:
        for key, _ in events.select():
            if key.fileobj is listener:
                client, _ = listener.accept()
                try:
                    size, files, *_ = socket.recv_fds(client, 8, MANY)
                    with client.makefile("rb") as file:
                        request = marshal.loads(file.read(int.from_bytes(size, "big")))
                except (EOFError, ValueError, OSError):  # the client was killed while it asked
                    client.close()
                    continue
                words, folder, environment, wanted, known_as = request
                if (pid := os.fork()) == 0:
                    events.close()
                    for inherited in (listener, client, *processes):
                        inherited.detach()
                    is_worker = any("spawn_main" in word for word in words)
                    become(folder, environment, dict(zip(wanted, files, strict=True)), known_as * is_worker)
                    return words
                for file in files:
                    os.close(file)
                processes[client] = pid, os.pidfd_open(pid)
                events.register(client, selectors.EVENT_READ)
                events.register(processes[client][1], selectors.EVENT_READ, client)
            elif client := key.data:
                pid, end = processes.pop(client)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                events.unregister(end)
                os.close(end)
                with contextlib.suppress(KeyError):  # it is gone
                    events.unregister(client)
                with client, contextlib.suppress(OSError):
                    client.sendall(code.to_bytes(8, "big", signed=True))
            elif key.fileobj in processes:
                events.unregister(key.fileobj)
                signal.pidfd_send_signal(processes[key.fileobj][1], signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(processes[key.fileobj][0], signal.SIGKILL)
            elif key.fd == 0:
                os._exit(0)


def become(folder: str, environment: dict[str, str], files: dict[int, int], known_as: int) -> None:
    """Take a client's folder, environment and open files in place of one's own.

    A pool knows its worker by the client's id, which is `known_as`; for any other process it is 0, since what cleans up
    after a process compares the id that the system gave it.
    """
    import fcntl

    if known_as:
        os.getpid = lambda: known_as
    os.setsid()
    kept = {wanted: fcntl.fcntl(file, fcntl.F_DUPFD, MANY) for wanted, file in files.items()}
    os.closerange(0, MANY)
    for wanted, file in kept.items():
        os.dup2(file, wanted)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    encoding, _, errors = environment.get("PYTHONIOENCODING", "utf-8").partition(":")
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        told = "backslashreplace" if number == 2 else errors or None
        stream = open(number, mode, encoding=encoding, errors=told) if number in files else None  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if sys.stderr:
        sys.stderr.reconfigure(line_buffering=True)


def import_all() -> None:
    """Import what commands import; the product itself is forgotten, and is imported anew by each."""
    import importlib
    import pkgutil

    import tables

    tables.made_once()
    from hydra._internal import core_plugins

    import hydra_plugins
    import kling_sweeps

    for package in (core_plugins, kling_sweeps, hydra_plugins):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__") and "ray" not in module.name:
                importlib.import_module(module.name)
    for name in ("mlflow.store.tracking.sqlalchemy_store", "pyarrow.dataset", "pyarrow.parquet"):
        importlib.import_module(name)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("kling_sweeps", "hydra_plugins"):
            del sys.modules[name]


def use() -> None:
    """Have emulators and workers of this process forked too, and MLflow's tables copied."""
    import multiprocessing.spawn

    import tables

    from kling_sweeps.emulator import process

    class System:
        executable = property(lambda self: executable())

    process.sys = System()
    multiprocessing.spawn.get_executable = lambda: os.fsencode(executable())
    tables.tracker._import_mlflow = tables.made_once


def run(words: list[str]) -> None:
    """Run a module or some code as a command, which ends without taking apart all that was imported."""
    import runpy

    at = next(index for index, word in enumerate(words) if word in ("-m", "-c"))
    sys.argv, sys.path[0] = words[at + (words[at] == "-m") :], os.getcwd()
    try:
        if words[at] == "-m":
            runpy.run_module(words[at + 1], run_name="__main__", alter_sys=True)
        else:
            del sys.argv[1]
            exec(words[at + 1], vars(sys.modules["__main__"]))
        exit_code.append(0)
    except SystemExit as end:
        exit_code.append(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise


def leave() -> None:
    """End this process, after all else that is done at its end."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(exit_code[0] if exit_code else 1)


def main() -> int:
    if sys.argv[1] != "serve":
        return ask(sys.argv[1], sys.argv[2:])
    import gc
    import multiprocessing

    atexit.register(leave)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    listener, sys.executable = socket.socket(fileno=int(sys.argv[2])), sys.argv[3]
    multiprocessing.set_executable(sys.executable)  # the workers of what runs here are forked here too
    import_all()
    gc.freeze()
    run(serve(listener))
    return 0


if __name__ == "__main__":
    sys.exit(main())
