"""The shape of the tree: sizes, versions, names, imports, and what must not stand in a file."""

import ast
import gc
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import staddle

ROOT = Path(__file__).resolve().parent.parent
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
TOP_LEVEL = {
    *(".ci", ".gitattributes", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md"),
    *("STYLE.md", "contrib", "core", "dev.py", "docs", "pins.txt", "plugins", "pyproject.toml", "tests"),
}
# What a plugin may import of us: nothing that a stranger may not.
PUBLIC = ("staddle", "staddle.api", "staddle.errors", "staddle.hookspecs", "staddle.testing")
HEAVY = {"blake3", "cryptography", "duckdb", "numpy", "pyarrow", "pyfastcdc", "zstandard"}
# A place of one machine or one network: of use to nobody else.
FORBIDDEN = re.compile(
    r"registry\s*=\s*(?:[\"']|\w+:)|(?<![\w.])/(?:root|work)/|--(?:extra-)?index-url|--find-links|://[^/\s]*@"
)


@cache
def project_files():
    """What git tracks or would track; without git, what stands in the folders of the project."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    if listed.returncode == 0:
        paths = [ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    else:
        paths = [path for top in TOP_LEVEL for path in (ROOT / top, *(ROOT / top).rglob("*"))]
    return sorted(path for path in paths if path.is_file() and "__pycache__" not in path.parts)


def named(path):
    return path.relative_to(ROOT).as_posix()


def parsed(source):
    """Its syntax tree. CPython before 3.11.8 fails if the collector runs code in between (gh-106905)."""
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        gc.enable()


@cache
def modules():
    """Every Python file of the project, parsed."""
    found = {path: parsed(path.read_bytes()) for path in project_files() if path.suffix == ".py"}
    assert ROOT / "dev.py" in found
    assert ROOT / "core/staddle/errors.py" in found
    return found


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def distributions():
    return [
        ROOT / "pyproject.toml",
        *sorted(ROOT.glob("plugins/*/pyproject.toml")),
        *sorted(ROOT.glob("contrib/*/pyproject.toml")),
    ]


def test_modules_are_short():
    sizes = {named(path): len(path.read_bytes().splitlines()) for path in modules()}
    assert {name: lines for name, lines in sizes.items() if lines > MODULE_LINES_MAX} == {}


def test_functions_are_short():
    long = {
        f"{named(path)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    }
    assert long == {}


def test_every_package_says_what_it_is():
    silent = [
        named(path)
        for path, tree in modules().items()
        if path.name == "__init__.py" and "tests" not in path.parts and not ast.get_docstring(tree)
    ]
    assert silent == []


def test_all_distributions_have_one_version():
    versions = {
        named(path): tomllib.loads(path.read_text("utf-8"))["project"]["version"] for path in distributions()
    }
    assert set(versions.values()) == {staddle.__version__}, versions


def test_the_top_level_holds_only_what_belongs_there():
    assert {named(path).split("/")[0] for path in project_files()} - TOP_LEVEL == set()


def test_nothing_named_core_or_plugins_is_imported():
    wrong = [
        f"{named(path)}: {name}"
        for path, tree in modules().items()
        for name in imports(tree)
        if name.split(".")[0] in ("core", "plugins")
    ]
    assert wrong == []


def test_plugins_import_only_the_public_modules():
    def public(name):
        return name in PUBLIC or name.startswith(("staddle.api.", "staddle.testing."))

    wrong = [
        f"{named(path)}: {name}"
        for path, tree in modules().items()
        if named(path).split("/")[0] in ("plugins", "contrib") and "tests" not in path.parts
        for name in imports(tree)
        if name.split(".")[0] == "staddle" and not public(name)
    ]
    assert wrong == []


def test_no_file_names_a_machine_or_a_package_host():
    wrong = []
    for path in project_files():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if FORBIDDEN.search(line) and path.name != Path(__file__).name:
                wrong.append(f"{named(path)}:{number}: {line.strip()[:80]}")
    assert wrong == []


def test_pins_are_plain_and_sorted():
    lines = (ROOT / "pins.txt").read_text("ascii").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.!+]+", line)] == []
    assert lines == sorted(lines, key=lambda line: line.split("==")[0].lower())


def test_every_direct_dependency_is_pinned():
    core = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    groups = [*core["project"]["optional-dependencies"].values(), *core["dependency-groups"].values()]
    groups += [
        tomllib.loads(path.read_text("utf-8"))["project"].get("dependencies", []) for path in distributions()
    ]
    wanted = {re.match(r"[\w.-]+", entry)[0] for group in groups for entry in group}
    pinned = {line.split("==")[0] for line in (ROOT / "pins.txt").read_text("ascii").splitlines()}
    assert {name for name in wanted - pinned if not name.startswith("staddle")} == set()


def test_pins_are_what_is_installed():
    pins = dict(line.split("==") for line in (ROOT / "pins.txt").read_text("ascii").splitlines())
    installed = {name: dist.version for name in pins for dist in importlib.metadata.distributions(name=name)}
    assert {name: installed[name] for name in installed if installed[name] != pins[name]} == {}
    assert {"pytest", "ruff", "mypy", "duckdb"} <= set(installed)


def sort_key(name):
    """Constants, classes, the rest, as ruff's RUF022 wants them."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_public_names_are_sorted_and_exist():
    seen = 0
    for path, tree in modules().items():
        for node in tree.body:
            if not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"):
                continue
            names = ast.literal_eval(node.value)
            assert names == sorted(names, key=sort_key), named(path)
            seen += 1
            if path.is_relative_to(ROOT / "core"):
                module = (
                    path.relative_to(ROOT / "core")
                    .with_suffix("")
                    .as_posix()
                    .replace("/", ".")
                    .removesuffix(".__init__")
                )
                missing = [name for name in names if not hasattr(importlib.import_module(module), name)]
                assert missing == [], named(path)
    assert seen


HELP = """
import json, runpy, sys
sys.argv = ["staddle", "--help"]
try:
    runpy.run_module("staddle", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def test_help_imports_no_plugin_and_no_sdk():
    assert (ROOT / "core/staddle/__main__.py").is_file()
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert b"--help" in done.stdout
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    plugins = {entry.module for entry in importlib.metadata.entry_points(group="staddle.plugins")}
    assert plugins, "no plugin is installed: this test would prove nothing"
    assert loaded & (HEAVY | plugins) == set()


@pytest.mark.parametrize(
    "line",
    [
        "registry = 'x'",
        "registry=http://x",
        "see /root/x",
        " '/work/main'",
        "--index-url x",
        "https://user:pw@host/",
    ],
)
def test_the_machine_pattern_finds(line):
    assert FORBIDDEN.search(line)


@pytest.mark.parametrize(
    "line",
    ["a registry", "registry = Registry()", "tmp/work/x", "https://example.org/work/x", "the root/ of it"],
)
def test_the_machine_pattern_leaves(line):
    assert not FORBIDDEN.search(line)


def test_types_are_decoded_through_the_one_safe_door():
    """Threads that meet a Struct at once crash the process (typed.py); `single` modules have one thread."""
    single = {"typed.py", "config_model.py", "config_convert.py", "connection.py", "joining.py"}
    raw = re.compile(r"msgspec\.(msgpack|json|toml)\.(decode|Decoder)\(|msgspec\.convert\(")
    found = [
        named(path)
        for path in modules()
        if "core/staddle" in path.as_posix()
        and path.name not in single
        and "testing/sim" not in path.as_posix()
        for line in path.read_text(encoding="utf-8").splitlines()
        if raw.search(line) and "type=dict" not in line
    ]
    assert found == [], "use staddle.typed"
