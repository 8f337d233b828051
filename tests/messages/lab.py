"""Where mistakes are made: homes that are up, homes that never were, and the command line."""

import contextlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

from staddle import cli
from staddle.config import home_paths, load
from staddle.daemon import runfiles
from staddle.platform import process

STADDLE = [sys.executable, "-m", "staddle"]
LIMIT_S = 120.0
NOBODY = 65534
IS_ROOT = sys.platform == "linux" and os.geteuid() == 0


@dataclass
class Said:
    """How a command ended. `document` is what it says with `--json`, where that was asked too."""

    code: int
    out: str
    err: str
    document: dict | None = None
    json_code: int | None = None


@dataclass
class Lab:
    """A directory with homes. What they say is told without the places of this run (`plain`)."""

    where: str
    homes: int = 0
    prepared: dict = field(default_factory=dict)
    mounts: list = field(default_factory=list)

    def __post_init__(self):
        self.home = os.path.join(self.where, "home")
        self.cold = os.path.join(self.where, "cold")
        self.warm = os.path.join(self.where, "warm")
        self.source = os.path.join(self.where, "source")
        self.base = {
            **os.environ,
            "HOME": self.where,
            "STADDLE_CLIENT": os.path.join(self.where, "no-client"),
            "PYTHONUNBUFFERED": "1",
        }
        self.base.pop("STADDLE_HOME", None)
        self.base.pop("STADDLE_DEBUG", None)

    def path(self, *names):
        return os.path.join(self.where, *names)

    # --- homes --------------------------------------------------------------------------------------

    def build(self):
        """The grid that is up, with one backup, and the one that is copied for what must not be up."""
        os.makedirs(os.path.join(self.source, "letters"))
        for number in range(3):
            with open(
                os.path.join(self.source, "letters", f"letter-{number}"), "w", encoding="utf-8"
            ) as file:
                file.write(f"letter {number}\n" * 100)
        for home in (self.home, self.cold):
            assert self.call("init", "--home", home).code == 0
        self.must("up", "--home", self.home)
        self.must("backup", self.source, "--name", "letters", "--home", self.home)
        self.must("down", "--home", self.home)
        shutil.copytree(self.home, self.warm)
        self.must("up", "--home", self.home)

    def new_home(self, change=None, *, used=False, home=None):
        """A grid of its own that has never been up, or was `used`; `change` rewrites its staddle.toml."""
        self.homes += 1
        home = home or self.path(f"home-{self.homes}")
        shutil.copytree(self.warm if used else self.cold, home)
        file = home_paths(home).config_file
        with open(file, encoding="utf-8") as handle:
            text = re.sub(r"127\.0\.0\.1:\d+", lambda _: f"127.0.0.1:{free_port()}", handle.read())
        with open(file, "w", encoding="utf-8") as handle:
            handle.write(change(text) if change else text)
        return home

    def once(self, name, make):
        """What several mistakes share, made when the first one needs it."""
        if name not in self.prepared:
            self.prepared[name] = make()
        return self.prepared[name]

    def mount(self, where, options):
        """A small file system until the end. Root only."""
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", where], check=True, timeout=30)
        self.mounts.append(where)

    def close(self):
        """Stop every daemon of every home here, and only those; take away what was mounted."""
        self._stop()
        for where in self.mounts:
            subprocess.run(["umount", "-l", where], check=True, timeout=30)

    def _stop(self):
        for name in os.listdir(self.where):
            home = self.path(name)
            run = home_paths(home).run
            if not os.path.isdir(run):
                continue
            for part in sorted({entry.rpartition(".")[0] for entry in os.listdir(run)}):
                found = runfiles.running(home, part)
                for pid in [found.pid, *found.pids] if found else []:
                    process.kill(pid)
                    _await(lambda pid=pid: not process.alive(pid))

    def fingerprint(self, home=None):
        """What no mistake may change: configuration, keys, log and media, by size and time."""
        home = home or self.home
        paths = home_paths(home)
        found = {}
        for top in (paths.config_file, paths.pki, paths.oplog, paths.media):
            for directory, _, names in os.walk(top):
                for name in names:
                    status = os.stat(os.path.join(directory, name))
                    found[os.path.join(directory, name)] = (status.st_size, status.st_mtime_ns)
        return found

    # --- commands -----------------------------------------------------------------------------------

    def call(self, *words, env=None):
        """A command in this process, from its entry point: the quick way."""
        out, err = io.StringIO(), io.StringIO()
        argv, kept = sys.argv, dict(os.environ)
        sys.argv = ["staddle", *words]
        os.environ.clear()
        os.environ.update({**self.base, **(env or {})})
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                cli.main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.argv = argv
            os.environ.clear()
            os.environ.update(kept)
        return Said(code, out.getvalue(), err.getvalue())

    def run(self, *words, env=None, as_json=True):
        """A command that is a mistake: as text, and with `--json`."""
        said = self.call(*words, env=env)
        if as_json:
            again = self.call(*words, "--json", env=env)
            said.json_code = again.code
            said.document = json.loads((again.err.splitlines() or ["{}"])[-1])
        return said

    def must(self, *words, **options):
        """A command that is none."""
        said = self.call(*words, **options)
        assert said.code == 0, (words, said)
        return said

    def process(self, *words, env=None, limit_s=LIMIT_S, **options):
        """A command in a process of its own."""
        done = subprocess.run(
            [*STADDLE, *words],
            env={**self.base, **(env or {})},
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
            timeout=limit_s,
            check=False,
            cwd=self.where,
        )
        return Said(done.returncode, done.stdout or "", done.stderr or "")

    def nobody(self, *words, first=("status", "--home", "nowhere")):
        """A command as another user. In this process: that user may not be able to run our Python.

        `first` is a harmless command that imports the same: later it could not be read any more.
        """
        assert self.call(*first).code != 0
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            return self.call(*words)
        finally:
            os.seteuid(0)
            os.setegid(0)

    # --- what they say ----------------------------------------------------------------------------------

    def plain(self, text):
        """A message without what differs from run to run."""
        text = re.sub(re.escape(self.where) + r"/home(-\d+)?(?![\w-])", "HOME", text)
        text = text.replace(self.where, "DIR")
        text = re.sub(r"(127\.0\.0\.1|192\.0\.2\.7):\d+", r"\1:PORT", text)
        text = re.sub(r"\b[0-9a-f]{32}\b", "GRID", text)
        text = re.sub(r"\(\d{4}-\d\d-\d\d\)", "(DATE)", text)
        text = re.sub(r"\b[0-9a-f]{16}\b", "NUMBER", text)
        text = re.sub(r"installed: [\w, ]+", "installed: ALL", text)
        text = re.sub(r"\bpid \d+", "pid PID", text)
        text = re.sub(r"x{80,}", "LONG", text)
        return re.sub(r"\b\d+ of \d+ bytes", "N of N bytes", text)


def free_port():
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def listening(address, answer=None):
    """Somebody else on a port, who gives everybody the same `answer`, or none."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen()
        thread = threading.Thread(target=_answer, args=(server, answer), daemon=True)
        if answer is not None:
            thread.start()
        yield
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        if answer is not None:
            thread.join(10)


def _answer(server, answer):
    with contextlib.suppress(OSError):
        while True:
            peer, _ = server.accept()
            with peer:
                peer.sendall(answer)


@contextlib.contextmanager
def small_disk(lab, size):
    """A file system with that much room. Root only."""
    where = lab.path(f"disk-{size}")
    os.makedirs(where, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", where], check=True, timeout=30)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True, timeout=30)


def fill(where):
    """Take all the room that a file system has, to the last byte."""
    descriptor = os.open(os.path.join(where, "filler"), os.O_CREAT | os.O_WRONLY)
    try:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(descriptor, bytes(size))
    finally:
        os.close(descriptor)


def first_line(said):
    """Of several lines about several files the first one."""
    return Said(said.code, said.err.partition("\n")[0] + "\n", "")


def port_of(home, part="manager"):
    settings = load(home)
    url = settings.manager.listen if part == "manager" else settings.agent[part].listen
    return int(url.rpartition(":")[2])


def _await(condition, limit_s=30.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def replace(old, new, count=-1):
    """A change of staddle.toml. A text that is not there is a mistake of the test."""

    def change(text):
        assert old in text, (old, text)
        return text.replace(old, new, count)

    return change


__all__ = [
    "IS_ROOT",
    "NOBODY",
    "Lab",
    "Said",
    "fill",
    "first_line",
    "free_port",
    "listening",
    "port_of",
    "replace",
    "small_disk",
]
