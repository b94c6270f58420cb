"""Processes that begin where the libraries have been imported, which takes a fresh one five of its six seconds.

A server, one for each process of pytest, imports what is not effdl's own and forks for each command. What is forked has a
session, a folder and an environment of its own, imports all of effdl by itself, and ends as a process does that Python started.
"""

import atexit
import gc
import json
import os
import random
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

LIBRARIES = ("torch._dynamo", "sklearn.datasets", "hydra._internal.hydra", "hydra.main", "pydantic", "scipy.linalg", "numpy")
MOST = 2**17  # bytes of a request, most of which are the environment
# What they do not read when they are imported, or set themselves in the process that imported them.
NOT_FOR_LIBRARIES = ("EFFDL_", "XDG_", "HOME", "TMPDIR", "KMP_", "TORCHINDUCTOR_CACHE_DIR", "GLOO_")


class Forked:
    """As much of subprocess.Popen as tests use, its output as text.

    program: a file, or -m and a module; then its arguments.
    usual: the environment that the libraries were imported in.
    """

    def __init__(self, program: Sequence[str], cwd: Path, env: Mapping[str, str], usual: Mapping[str, str]) -> None:
        self.args = list(program)
        self.returncode: int | None = None
        request = json.dumps([self.args, str(cwd), dict(env)]).encode()
        ours, theirs = zip(*(os.pipe() for _ in range(3)), strict=True)
        socket.send_fds(server(tuple(sorted(usual.items()))), [request], theirs)
        for end in theirs:
            os.close(end)
        self.stdout, self.stderr, self._status = (open(end) for end in ours)  # noqa: SIM115
        self.pid = int(self._status.readline())

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, -n where signal n killed it. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._status, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, which: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, which)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it, and all that it started, still print; then waits. Raises subprocess.TimeoutExpired."""
        until = None if timeout is None else time.monotonic() + timeout
        said = {pipe: "" for pipe in (self.stdout, self.stderr) if not pipe.closed}

        def read(pipe: object) -> None:
            said[pipe] = pipe.read()

        readers = [threading.Thread(target=read, args=(pipe,), daemon=True) for pipe in said]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if until is None else max(0.0, until - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(None if until is None else max(0.0, until - time.monotonic()))
        for pipe in said:
            pipe.close()
        return said.get(self.stdout, ""), said.get(self.stderr, "")


def possible(env: Mapping[str, str], usual: Mapping[str, str]) -> bool:
    """Whether this system can, and libraries find in an environment what they found in the usual one."""
    differ = [name for name in {*env, *usual} if env.get(name) != usual.get(name)]
    return hasattr(os, "pidfd_open") and all(name.startswith(NOT_FOR_LIBRARIES) for name in differ)


@cache
def server(env: tuple[tuple[str, str], ...]) -> socket.socket:
    """The socket of this process's server, whose libraries were imported in this environment."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST)
    with theirs:
        begun = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # a Ctrl-C is for pytest; the server ends when pytest's end of the socket closes
        )

    @atexit.register
    def end() -> None:  # and is waited for, so that its seconds are counted with those of pytest
        ours.close()
        with suppress(subprocess.TimeoutExpired):
            begun.wait(5)

    return ours


# --- the server


def serve(requests: socket.socket) -> list[str]:
    """Fork for each request, and say of each process its id and, once it has ended, its exit code.

    Returns in forked processes alone, the program; ends the server's own when nobody can ask any more.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not requests:  # a process has ended
                    _, status = os.waitpid(key.data[0], 0)
                    selector.unregister(key.fileobj)
                    os.close(key.fd)
                    say(key.data[1], os.waitstatus_to_exitcode(status), last=True)
                    continue
                request, pipes, *_ = socket.recv_fds(requests, MOST, 3)
                if not request:
                    sys.exit()
                pid = os.fork()
                if pid == 0:
                    living = [one for one in selector.get_map().values() if one.data]
                    for end in (pipes[2], *(one.fd for one in living), *(one.data[1] for one in living)):
                        os.close(end)
                    requests.close()
                    return settle(*json.loads(request), pipes[:2])
                for end in pipes[:2]:
                    os.close(end)
                say(pipes[2], pid)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, pipes[2]))


def say(pipe: int, number: int, last: bool = False) -> None:
    with suppress(BrokenPipeError):  # who asked has gone
        os.write(pipe, b"%d\n" % number)
    if last:
        os.close(pipe)


def settle(program: list[str], cwd: str, env: dict[str, str], pipes: Sequence[int]) -> list[str]:
    """Make this forked process what a fresh one would be; returns the program."""
    os.setsid()
    for number, end in enumerate(pipes, start=1):
        os.dup2(end, number)
        os.close(end)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    random.seed()
    tempfile.tempdir = None
    return program


def begin(program: list[str]) -> None:
    """What `python` does of such a command line."""
    if program[0] == "-m":
        sys.argv, sys.path[0] = program[1:], os.getcwd()
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = program, str(Path(program[0]).parent)
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    for library in LIBRARIES:
        import_module(library)
    gc.collect()
    gc.freeze()
    begin(serve(socket.socket(fileno=int(sys.argv[1]))))
