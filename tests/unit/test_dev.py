"""dev.py and the conftest: exit codes, what is installed, what is left out and how it is said."""

import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def dev(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    spec = importlib.util.spec_from_file_location("staddle_dev_under_test", ROOT / "dev.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    for variable in ("CI", "STADDLE_NO_INSTALL", "STADDLE_LEFT_OUT"):
        monkeypatch.delenv(variable, raising=False)
    return module


def component(dev, reasons, marker="netns"):
    """A component whose probes answer with `reasons`, one after the other."""
    answers = iter(reasons)
    return dev.Component("things", marker, (sys.platform,), ("thing-utils",), lambda: next(answers))


def a_tree_with(tmp_path, text):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(text)
    return tmp_path


def test_exit_codes_pass_through(dev):
    assert dev.run([sys.executable, "-c", "raise SystemExit(13)"]) == 13
    assert dev.run([sys.executable, "-c", ""]) == 0


def test_a_wrong_command_line_ends_with_2_and_help_with_0(dev, capsys):
    assert dev.main([]) == 2
    assert dev.main(["nonsense"]) == 2
    assert "usage:" in capsys.readouterr().err
    assert dev.main(["test", "--help"]) == 0
    assert "usage:" in capsys.readouterr().out
    assert dev.main(["check", "surplus"]) == 1
    assert "surplus" in capsys.readouterr().err


def test_options_of_started_programs_reach_them(dev, monkeypatch):
    seen = []
    monkeypatch.setitem(dev.COMMANDS, "run", (lambda args: seen.append(args) or 0, "", ""))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert dev.main(["run", "backup", "--help", "--no-install"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [["backup", "--help", "--no-install"]]


def test_setup_is_instant_until_a_setting_changes(dev, monkeypatch, tmp_path):
    (tmp_path / "pins.txt").write_text("a==1\n")
    (tmp_path / "pyproject.toml").write_text("[dependency-groups]\ndev = ['staddle[testing]', 'ruff']\n")
    (tmp_path / "python").write_text("")
    for name, path in {"ROOT": tmp_path, "PINS": tmp_path / "pins.txt", "STAMP": tmp_path / "stamp"}.items():
        monkeypatch.setattr(dev, name, path)
    monkeypatch.setattr(dev, "PYTHON", str(tmp_path / "python"))
    monkeypatch.setattr(dev, "ask", lambda *args, **kwargs: (0, ""))
    runs = []
    monkeypatch.setattr(dev, "run", lambda argv, **kwargs: runs.append(argv) or 0)
    dev.setup()
    dev.setup()
    assert len(runs) == 2
    assert runs[0][-3:] == ["-e", ".[manager,testing]", "ruff"]
    assert runs[1][1:3] == ["-m", "compileall"]
    (tmp_path / "contrib" / "example").mkdir(parents=True)
    (tmp_path / "contrib" / "example" / "pyproject.toml").write_text("")
    dev.setup()
    assert runs[2][-3:] == ["-e", str(tmp_path / "contrib" / "example"), "ruff"]
    (tmp_path / "pins.txt").write_text("a==2\n")
    monkeypatch.setattr(dev, "run", lambda argv, **kwargs: 1)
    with pytest.raises(dev.Refused):
        dev.setup()
    assert not (tmp_path / "stamp").exists()


def test_python_without_venv_is_told_the_command_that_mends_it(dev, monkeypatch):
    monkeypatch.setattr(dev, "ask", lambda argv, **kwargs: (1, "No module named 'ensurepip'"))
    monkeypatch.setattr(dev.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(dev.sys, "base_prefix", "/usr")
    installed = []
    monkeypatch.setattr(dev, "apt_install", lambda packages: installed.extend(packages) or True)
    package = f"python3.{sys.version_info.minor}-venv"
    monkeypatch.setattr(dev, "can_install", lambda: False)
    with pytest.raises(dev.Refused, match=f"apt-get install {package}"):
        dev.mend_python()
    monkeypatch.setattr(dev, "can_install", lambda: True)
    dev.mend_python()
    assert installed == [package]


def test_a_missing_component_is_installed_where_that_is_possible(dev, monkeypatch):
    installed = []
    monkeypatch.setattr(dev, "apt_install", lambda packages: installed.extend(packages) or True)
    monkeypatch.setattr(dev, "can_install", lambda: True)
    assert dev.provide(component(dev, ["missing", ""])) == ""
    assert installed == ["thing-utils"]
    assert "missing" in dev.provide(component(dev, ["missing"]), may_install=False)
    monkeypatch.setattr(dev, "can_install", lambda: False)
    assert "apt-get install thing-utils" in dev.provide(component(dev, ["missing"]))
    assert installed == ["thing-utils"]


def test_no_install_refuses_to_install(dev, monkeypatch):
    monkeypatch.setenv("STADDLE_NO_INSTALL", "1")
    assert not dev.can_install()


def test_only_components_that_a_test_needs_are_looked_at(dev, monkeypatch, tmp_path):
    monkeypatch.setattr(dev, "ROOT", a_tree_with(tmp_path, "@pytest.mark." + "other\n"))
    monkeypatch.setattr(dev, "COMPONENTS", (component(dev, []),))
    assert dev.left_out() == {}


def test_a_missing_component_leaves_tests_out_but_fails_ci(dev, monkeypatch, tmp_path):
    monkeypatch.setattr(dev, "ROOT", a_tree_with(tmp_path, "@pytest.mark." + "netns\n"))
    monkeypatch.setattr(dev, "can_install", lambda: False)
    monkeypatch.setattr(dev, "COMPONENTS", (component(dev, ["gone", "gone"]),))
    assert "gone" in dev.left_out()["netns"]
    monkeypatch.setenv("CI", "true")
    with pytest.raises(dev.Refused, match="CI leaves no test out"):
        dev.left_out()
    elsewhere = dataclasses.replace(component(dev, []), systems=("plan9",))
    monkeypatch.setattr(dev, "COMPONENTS", (elsewhere,))
    assert "only on plan9" in dev.left_out()["netns"]


def test_a_check_that_fails_is_named_and_all_are_run(dev, monkeypatch, capsys):
    python = [sys.executable, "-c"]
    trouble = [*python, "print('the trouble'); raise SystemExit(1)"]
    monkeypatch.setattr(dev, "checks", lambda: [("one", trouble), ("two", [*python, ""]), ("three", trouble)])
    assert dev.check_all() == ["one", "three"]
    said = capsys.readouterr().err
    assert "the trouble" in said
    assert said.endswith("failed checks: one, three\n")


if sys.platform != "win32":

    def test_a_signal_becomes_128_and_its_number(dev):
        assert dev.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 137

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_an_ended_dev_leaves_no_child_behind(tmp_path, number, code):
        note = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()) + ' ')"
        child = f"import os, time; {note}; time.sleep(60)"
        # Who runs the tests in the background of a shell has SIGINT ignored.
        heeded = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        program = (
            f"{heeded}; import sys, dev; "
            "dev.COMMANDS['run'] = (lambda a: dev.run([sys.executable, '-c', a[0]]), '', '')"
        )
        argv = [sys.executable, "-c", f"{program}; sys.exit(dev.main(['run', {child!r}]))"]
        with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True) as started:
            deadline_s = time.monotonic() + 30
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith(" "):
                assert time.monotonic() < deadline_s
                time.sleep(0.02)
            if number == signal.SIGINT:
                os.killpg(started.pid, number)  # a terminal tells the whole group
            else:
                started.send_signal(number)
            _, said = started.communicate(timeout=30)
        assert started.returncode == code, said.decode()
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


SAMPLE = """
import pytest

def test_plain(): pass

@pytest.mark.netns
def test_marked(): raise AssertionError("must not run")

@pytest.mark.skip(reason="lazy")
def test_skipped(): pass

@pytest.mark.xfail(reason="known", strict=True)
def test_known(): raise AssertionError
"""


def pytest_of_sample(tmp_path, *args, **env):
    a_tree_with(tmp_path, SAMPLE)
    shutil.copy(ROOT / "tests/conftest.py", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = netns: x\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args],
        cwd=tmp_path,
        env={**{name: value for name, value in os.environ.items() if name != "CI"}, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_what_is_left_out_is_listed_before_pytests_closing_line(tmp_path):
    done = pytest_of_sample(tmp_path, STADDLE_LEFT_OUT=json.dumps({"netns": "no rights"}))
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    at = next(number for number, line in enumerate(lines) if "left out: 1 tests marked netns" in line)
    assert lines[at + 1 : at + 3] == ["no rights", "  tests/test_it.py::test_marked"]
    assert "1 passed, 1 skipped, 1 deselected, 1 xfailed" in lines[-1]


def test_in_ci_a_skip_is_a_failure(tmp_path):
    done = pytest_of_sample(tmp_path, STADDLE_LEFT_OUT=json.dumps({"netns": "x"}), CI="true")
    assert done.returncode == 1
    assert "skipped in CI" in done.stdout
    assert "1 passed, 1 deselected, 1 xfailed, 1 error" in done.stdout.splitlines()[-1]


def test_a_run_that_collects_nothing_fails(tmp_path):
    assert pytest_of_sample(tmp_path, "-k", "nothing_like_that").returncode == 5
