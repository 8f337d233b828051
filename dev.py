#!/usr/bin/env python3
"""The one command of people and CI: set up, check, test, try and measure Staddle.

Standard library only, so that a fresh clone needs nothing but git and Python 3.11 or newer, on Linux, macOS
and Windows. Everything is installed into `.venv`, with the versions of `pins.txt`. What dev.py itself has to
say goes to stderr, so that the output of `dev.py run … --json` stays clean.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from contrib.lab.components import BENCH, COMPONENTS, PROBE_S, Component, ask

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if sys.platform == "win32" else "bin")
PYTHON = str(BIN / ("python.exe" if sys.platform == "win32" else "python"))
STAMP = VENV / "staddle-setup.stamp"
PINS = ROOT / "pins.txt"

PYTHON_MIN = (3, 11)
CHECKS_AT_ONCE = 2
TESTS_AT_ONCE = 4
GRACE_S = 60.0  # what a child may take to clean up after Ctrl-C
CHECK_S = 900.0
INSTALL_S = 1500.0


class Refused(Exception):
    """Something stands in the way; the message says what, and what mends it."""


def say(message: str) -> None:
    """One line on stderr."""
    print(f"dev.py: {message}", file=sys.stderr, flush=True)


def end(child: subprocess.Popen[bytes]) -> None:
    """Wait until `child` is gone; kill it if it takes longer than GRACE_S, or on a second Ctrl-C."""
    try:
        child.wait(GRACE_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()
        child.wait(GRACE_S)


def run(
    argv: list[str], *, cwd: Path | None = None, limit_s: float | None = None, aside: bool = False
) -> int:
    """Run a program in the foreground; return its exit code, 128+N if signal N ended it.

    A child shares our terminal and sees Ctrl-C itself: it is given time to clean up, and is not left behind.
    There is a limit only where nobody watches; what the user started runs as long as the user likes. With
    `aside` its output goes to stderr.
    """
    child = subprocess.Popen(argv, cwd=cwd, stdout=sys.stderr if aside else None)
    try:
        code = child.wait(limit_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(GRACE_S)
        raise Refused(f"{argv[0]} did not end within {limit_s:.0f} s") from None
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit):
            child.terminate()
        end(child)
        raise
    return code if code >= 0 else 128 - code


def can_install() -> bool:
    """Whether we may and can install Debian packages. `--no-install` sets the variable."""
    if sys.platform == "win32" or os.environ.get("STADDLE_NO_INSTALL"):
        return False
    return os.geteuid() == 0 and bool(shutil.which("apt-get"))


def apt_install(packages: tuple[str, ...]) -> bool:
    """Install Debian packages; refresh the package lists only if they do not know them yet."""
    say(f"installing system packages: {' '.join(packages)}")
    install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    for argv in (install, ["apt-get", "update"], install):
        code = run(argv, limit_s=INSTALL_S, aside=True)
        if argv is install and code == 0:
            return True
    return False


def provide(component: Component, *, may_install: bool = True) -> str:
    """Make `component` usable, by installing it where that is possible; "" or the reason why it is not."""
    if sys.platform not in component.systems:
        return f"only on {', '.join(component.systems)}"
    reason = component.probe()
    if not reason or not component.packages:
        return reason
    if may_install and can_install() and apt_install(component.packages):
        reason = component.probe()
    return reason and f"{reason}; on Debian: `apt-get install {' '.join(component.packages)}`"


def left_out() -> dict[str, str]:
    """Markers whose tests cannot run here, with the reason. In CI nothing is left out that could be here."""
    paths = [path for top in ("", "plugins/*/", "contrib/*/") for path in ROOT.glob(top + "tests/**/*.py")]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    reasons: dict[str, str] = {}
    for component in COMPONENTS:
        if not any(f"mark.{component.marker}" in text for text in texts):
            continue
        reason = provide(component)
        if reason and sys.platform in component.systems and os.environ.get("CI", "").lower() == "true":
            raise Refused(f"CI leaves no test out, but {component.name} are not usable: {reason}")
        if reason:
            reasons[component.marker] = f"{component.name}: {reason}"
    return reasons


def distributions() -> list[Path]:
    """Folders of the distributions beside the core: plugins and the example."""
    return sorted(p.parent for kind in ("plugins", "contrib") for p in ROOT.glob(kind + "/*/pyproject.toml"))


def fingerprint() -> str:
    """Changes whenever `.venv` is out of date: other pins, other settings, another place."""
    digest = hashlib.sha256(str(ROOT).encode())
    for path in (PINS, ROOT / "pyproject.toml", *(folder / "pyproject.toml" for folder in distributions())):
        digest.update(f"\0{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def wanted() -> list[str]:
    """What pip installs: the core, every distribution beside it, and the `dev` dependency group."""
    import tomllib  # absent from Pythons older than PYTHON_MIN, which get a clear message from main()

    group = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]["dev"]
    editable = [".[manager,testing]", *(str(folder) for folder in distributions())]
    tools = [entry for entry in group if not entry.startswith("staddle")]
    return [word for path in editable for word in ("-e", path)] + tools


def mend_python() -> None:
    """Debian splits venv and ensurepip off Python: install them, or say how."""
    if ask([sys.executable, "-Ic", "import venv, ensurepip; ensurepip.version()"], limit_s=PROBE_S)[0] == 0:
        return
    missing = f"{sys.executable} has no venv and ensurepip"
    if not (shutil.which("apt-get") and sys.base_prefix == "/usr"):
        raise Refused(f"{missing}: install a complete Python 3.11 or newer")
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if not (can_install() and apt_install((package,))):
        raise Refused(f"{missing}: run `sudo apt-get install {package}`, then this again")


def setup() -> None:
    """Make `.venv` what this tree wants; instant when it already is.

    Raises: Refused if Python, the environment or the packages cannot be had.
    """
    stamp = fingerprint()
    if Path(PYTHON).is_file() and STAMP.is_file() and STAMP.read_text(encoding="utf-8") == stamp:
        return
    began_s = time.monotonic()
    if not Path(PYTHON).is_file() or ask([PYTHON, "-m", "pip", "--version"], limit_s=PROBE_S)[0]:
        mend_python()
        say(f"making {VENV} with Python {sys.version.split()[0]}")
        if run([sys.executable, "-m", "venv", "--clear", str(VENV)], limit_s=INSTALL_S, aside=True):
            raise Refused(f"`{sys.executable} -m venv` failed, see above")
    STAMP.unlink(missing_ok=True)
    say("installing packages")
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(PINS)]
    if run([*pip, *wanted()], cwd=ROOT, limit_s=INSTALL_S, aside=True):
        raise Refused("pip could not install the packages, see above; when it can, run this again")
    # pip compiles what it installs, but not what it only links; every daemon would do so at its start.
    if run([PYTHON, "-m", "compileall", "-q", "core", "contrib"], cwd=ROOT, limit_s=INSTALL_S, aside=True):
        raise Refused("the sources do not compile, see above")
    STAMP.write_text(stamp, encoding="utf-8")
    say(f"ready after {time.monotonic() - began_s:.0f} s: {PYTHON}")


def checks() -> list[tuple[str, list[str]]]:
    """Every check that needs no test run: name and command."""
    ruff, mypy = [PYTHON, "-m", "ruff"], [PYTHON, "-m", "mypy", "--no-error-summary"]
    found = [
        ("ruff format", [*ruff, "format", "--check", "."]),
        ("ruff check", [*ruff, "check", "."]),
        ("lint-imports", [str(BIN / "lint-imports")]),
    ]
    # A cache of its own for each platform: otherwise each run throws the other's away.
    for system in ("linux", "darwin", "win32"):
        found += [(f"mypy {system}", [*mypy, "--platform", system, "--cache-dir", f".mypy_cache/{system}"])]
    return found


def check_all() -> list[str]:
    """Run all checks, print what failed ones say; the names of those that failed."""

    def one(item: tuple[str, list[str]]) -> tuple[str, int, str, float]:
        began_s = time.monotonic()
        code, text = ask(item[1], limit_s=CHECK_S, cwd=ROOT)
        return item[0], code, text, time.monotonic() - began_s

    failed = []
    pool = concurrent.futures.ThreadPoolExecutor(CHECKS_AT_ONCE)
    try:
        for name, code, text, took_s in pool.map(one, checks()):
            say(f"{'FAILED' if code else 'ok':<6} {name} ({took_s:.1f} s)")
            if code:
                failed.append(name)
                print(text, file=sys.stderr, flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        say(f"failed checks: {', '.join(failed)}")
    return failed


def none_of(args: list[str]) -> None:
    """For commands without arguments."""
    if args:
        raise Refused(f"unexpected argument {args[0]!r}; see `dev.py --help`")


def script(path: str, args: list[str]) -> int:
    """Run a script of this tree in `.venv`."""
    setup()
    if not (ROOT / path).is_file():
        raise Refused(f"{path} does not exist in this tree")
    return run([PYTHON, str(ROOT / path), *args], cwd=ROOT)


def cmd_setup(args: list[str]) -> int:
    """Make `.venv`."""
    none_of(args)
    setup()
    say(f"`{BIN / 'staddle'}` is the command line, `python3 dev.py run …` is short for it")
    return 0


def cmd_run(args: list[str]) -> int:
    """Run the command line, in the caller's directory: paths in the arguments are relative to it."""
    setup()
    return run([PYTHON, "-m", "staddle", *args])


def cmd_test(args: list[str]) -> int:
    """Set up, check, then pytest: it lists what is left out, and its closing line is the last one.

    All tests run in several processes, and whoever is done takes over from the others; a part, which is what
    somebody looks at closely, runs in one.
    """
    setup()
    if check_all():
        return 1
    os.environ["STADDLE_LEFT_OUT"] = json.dumps(left_out())
    workers = [f"--numprocesses={min(os.cpu_count() or 1, TESTS_AT_ONCE)}", "--dist=worksteal"]
    return run([PYTHON, "-m", "pytest", *(args or workers)], cwd=ROOT)


def cmd_check(args: list[str]) -> int:
    """Run the checks alone."""
    none_of(args)
    setup()
    return 1 if check_all() else 0


def cmd_bench(args: list[str]) -> int:
    """Measure; the peers are installed if possible, else the bench says who is absent."""
    if not {"-h", "--help"} & {*args}:
        for component in BENCH:
            reason = provide(component)
            if reason:
                say(f"{component.name}: {reason}")
    return script("tests/bench/bench.py", args)


def cmd_lab(args: list[str]) -> int:
    """Print what of the lab is usable."""
    if args != ["status"]:
        raise Refused("usage: dev.py lab status")
    for component in COMPONENTS:
        reason = provide(component, may_install=False)
        print(f"{component.name:<20} marker {component.marker:<8} {reason or 'usable'}")
    return 0


def cmd_docs(args: list[str]) -> int:
    """Check the documentation, and say where it is."""
    none_of(args)
    setup()
    code = run([PYTHON, "-m", "pytest", "-q", "tests/test_docs.py"], cwd=ROOT)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))):
        title = path.read_text(encoding="utf-8").split("\n", 1)[0]
        say(f"{path}: {title.lstrip('# ')}")
    return code


# The commands: what is called, how it is written, what it does.
COMMANDS: dict[str, tuple[Callable[[list[str]], int], str, str]] = {
    "setup": (cmd_setup, "setup [--no-install]", "make .venv; instant when nothing has changed"),
    "demo": (lambda args: cmd_run(["demo", *args]), "demo [ARGS]", "a job survives its agent and its medium"),
    "run": (cmd_run, "run ARGS", "run the command line: `dev.py run status`"),
    "test": (cmd_test, "test [--no-install] [PYTEST ARGS]", "setup, check, then pytest: what CI runs"),
    "check": (cmd_check, "check", "ruff, mypy for linux, darwin and win32, import layers"),
    "bench": (cmd_bench, "bench [--no-install] [ARGS]", "measure, beside borg and restic; `bench --help`"),
    "soak": (
        lambda args: script("tests/soak.py", args),
        "soak [ARGS]",
        "the long runs, with their full counts",
    ),
    "lab": (cmd_lab, "lab status", "what of the test lab is usable on this machine"),
    "docs": (cmd_docs, "docs", "check the documentation against the code, and say where it is"),
}
OWN_OPTIONS = ("demo", "run")  # there every option belongs to the program that is started
OWN_HELP = (*OWN_OPTIONS, "bench")
NOTE = """
Missing system packages are installed when this runs as root on a Debian-like system; --no-install
refuses that, and tests that need them are left out and listed. With CI=true nothing is left out."""


def usage() -> str:
    """The help text."""
    lines = [(__doc__ or "").split("\n", 1)[0], "", "usage: python3 dev.py COMMAND", ""]
    lines += [f"  {words:<36}{what}" for _call, words, what in COMMANDS.values()]
    return "\n".join([*lines, NOTE])


def main(argv: list[str]) -> int:
    """Run one command.

    Returns: its exit code; 2 for a wrong command line, 130 after Ctrl-C.
    """
    if sys.version_info < PYTHON_MIN:
        say(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]} ({sys.executable})")
        return 2
    name, args = (argv[0], argv[1:]) if argv else ("", [])
    if name in ("-h", "--help", "help") or (name not in OWN_HELP and {"-h", "--help"} & {*args}):
        print(usage())
        return 0
    if name not in COMMANDS:
        print(usage(), file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so children are ended too
    if name not in OWN_OPTIONS and "--no-install" in args:
        args.remove("--no-install")
        os.environ["STADDLE_NO_INSTALL"] = "1"
    try:
        return COMMANDS[name][0](args)
    except Refused as refusal:
        say(str(refusal))
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
