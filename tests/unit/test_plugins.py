"""Plugin discovery: lazy, isolated, and clear about what is wrong."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata, util
from pathlib import Path

import pytest

from staddle.api.types import Capability, Surety
from staddle.errors import PluginError
from staddle.plugins import PluginRegistry, declared, merge_capabilities

REPO = Path(__file__).parents[2]

GOOD = """
    import msgspec
    from staddle import API_VERSION, Cap, Durability, MediaType, hookimpl

    class Config(msgspec.Struct):
        path: str

    @hookimpl
    def staddle_media():
        return [MediaType(name="{name}", version="1", api_version=API_VERSION, config_type=Config,
                          capabilities=Cap.RANDOM_READ | Cap.CAPACITY, durability=Durability.HOST,
                          load=lambda: None, summary="of a test")]
"""


class World:
    """A directory of made-up distributions on sys.path."""

    def __init__(self, path):
        self.path = path

    def add(self, distribution, code, entry=None, module=None, version="1.2"):
        entry = entry or distribution
        module = module or f"mod_{distribution}_{abs(hash((self.path, distribution)))}".replace("-", "_")
        (self.path / f"{module}.py").write_text(textwrap.dedent(code))
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[staddle.plugins]\n{entry} = {module}\n")
        return module

    def registry(self):
        return PluginRegistry(lambda: metadata.distributions(path=[str(self.path)]))


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    return World(tmp_path)


def test_built_in_types_are_found():
    registry = PluginRegistry()
    assert registry.media_type("directory").name == "directory"
    assert registry.media_type("memory").name == "memory"
    assert registry.cluster_type("single").name == "single"
    assert {"directory", "memory", "single"} <= {info.name for info in registry.all()}
    assert [p for p in registry.problems() if p.name in {"directory", "memory", "single"}] == []


def test_listing_imports_nothing(world):
    module = world.add("staddle-shelf", GOOD.format(name="shelf"), entry="shelf")
    registry = world.registry()
    (info,) = registry.all()
    assert (info.name, info.distribution, info.version, info.state) == (
        "shelf",
        "staddle-shelf",
        "1.2",
        "found",
    )
    assert registry.problems() == []
    assert module not in sys.modules
    assert registry.media_type("shelf").name == "shelf"
    assert module in sys.modules
    (info,) = registry.all()
    assert (info.state, info.provides, info.summary) == ("loaded", ("media:shelf",), "of a test")


def test_finding_one_type_leaves_other_plugins_alone(world):
    other = world.add("staddle-other", GOOD.format(name="other"), entry="other")
    world.add("staddle-shelf", GOOD.format(name="shelf"), entry="shelf")
    assert world.registry().media_type("shelf").name == "shelf"
    assert other not in sys.modules


def test_a_type_named_unlike_its_entry_point_is_found_too(world):
    world.add("staddle-shelf", GOOD.format(name="shelf"), entry="furniture")
    assert world.registry().media_type("shelf").name == "shelf"


BROKEN = {
    "import": ("import no_such_module_anywhere", "IMPORT", "no_such_module_anywhere"),
    "syntax": ("def (", "IMPORT", "SyntaxError"),
    "exit": ("import sys; sys.exit(3)", "IMPORT", "SystemExit: 3"),
    "crash": ("1 / 0", "IMPORT", "ZeroDivisionError"),
    "no hooks": ("x = 1", "HOOKS", "implements no hook"),
    "unknown hook": (
        "from staddle import hookimpl\n@hookimpl\ndef staddle_medium(): return []",
        "HOOKS",
        "staddle_medium",
    ),
    "signature": ("from staddle import hookimpl\n@hookimpl\ndef staddle_media(x): return []", "HOOKS", "'x'"),
    "raises": (
        "from staddle import hookimpl\n@hookimpl\ndef staddle_media(): 1 / 0",
        "HOOK_FAILED",
        "ZeroDivision",
    ),
    "exits": (
        "from staddle import hookimpl\n@hookimpl\ndef staddle_media(): raise SystemExit",
        "HOOK_FAILED",
        "SystemExit",
    ),
    "no list": (
        "from staddle import hookimpl\n@hookimpl\ndef staddle_media(): return 7",
        "HOOK_FAILED",
        "TypeError",
    ),
    "wrong type": (
        "from staddle import hookimpl\n@hookimpl\ndef staddle_media(): return ['s3']",
        "RESULT",
        "str",
    ),
    "newer": (
        GOOD.format(name="bad").replace("=API_VERSION", "=API_VERSION + 1"),
        "API_VERSION",
        "built for API version",
    ),
    "a version that is no number": (
        GOOD.format(name="bad").replace("=API_VERSION", "='1'"),
        "RESULT",
        "api_version",
    ),
    "no version": (GOOD.format(name="bad").replace('"1"', "None"), "RESULT", "version"),
    "a summary that is none": (GOOD.format(name="bad").replace('"of a test"', "[1]"), "RESULT", "summary"),
    "a name that is none": (GOOD.format(name="bad").replace('name="bad"', "name=5"), "RESULT", "name"),
    "nothing to load": (GOOD.format(name="bad").replace("lambda: None", "None"), "RESULT", "load"),
    "endless": (
        (
            "import itertools\nfrom staddle import hookimpl\n@hookimpl\ndef staddle_media(): "
            "return itertools.repeat('s3')"
        ),
        "RESULT",
        "str",
    ),
    "an error without words": (
        (
            "from staddle import hookimpl\nclass E(Exception):\n    def __str__(self): raise SystemExit\n"
            "@hookimpl\ndef staddle_media(): raise E"
        ),
        "HOOK_FAILED",
        "E",
    ),
    "older": (
        GOOD.format(name="bad").replace("=API_VERSION", "=API_VERSION - 1"),
        "API_VERSION",
        "built for API version",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_plugin_is_a_problem_and_spoils_no_other(world, what):
    code, problem_code, part = BROKEN[what]
    world.add("aaa-bad", code, entry="bad")
    world.add("zzz-good", GOOD.format(name="good"), entry="good")
    registry = world.registry()
    (problem,) = registry.problems(load=True)
    assert (problem.name, problem.distribution, problem.code) == ("bad", "aaa-bad", problem_code)
    assert part in problem.message
    assert problem.hint
    assert registry.media_type("good").name == "good"
    assert {info.name for info in registry.all()} == {"bad", "good"}
    with pytest.raises(PluginError, match="broken") as caught:
        registry.media_type("bad")
    assert "aaa-bad" in str(caught.value)


def test_broken_metadata_is_a_problem(world):
    world.add("aaa-bad", GOOD.format(name="bad"))
    (world.path / "aaa_bad-1.2.dist-info" / "entry_points.txt").write_text("[staddle.plugins\n= = =\nx")
    world.add("zzz-good", GOOD.format(name="good"), entry="good")
    registry = world.registry()
    assert registry.media_type("good").name == "good"
    assert [info.name for info in registry.all()] == ["good"]


def test_two_plugins_of_one_name(world):
    world.add("aaa-one", GOOD.format(name="shelf"), entry="shelf")
    world.add("bbb-two", GOOD.format(name="shelf2"), entry="shelf")
    registry = world.registry()
    assert registry.media_type("shelf").name == "shelf"
    (problem,) = registry.problems()
    assert (problem.code, problem.distribution) == ("DUPLICATE", "bbb-two")


def test_two_types_of_one_name(world):
    world.add("aaa-one", GOOD.format(name="shelf"), entry="one")
    world.add("bbb-two", GOOD.format(name="shelf"), entry="two")
    (problem,) = world.registry().problems(load=True)
    assert (problem.code, problem.name) == ("DUPLICATE", "two")


def test_what_is_missing_is_suggested(world):
    world.add("staddle-shelf", GOOD.format(name="shelf"), entry="shelf")
    registry = world.registry()
    with pytest.raises(PluginError, match="did you mean 'shelf'"):
        registry.media_type("shelv")
    with pytest.raises(PluginError, match=r"pip install .*staddle-s3"):
        registry.media_type("s3")
    with pytest.raises(PluginError, match="no transport plugin 'iscsi'"):
        registry.transport("iscsi")


def test_commands_of_plugins(world):
    world.add(
        "staddle-cmd",
        """
        import click
        from staddle import hookimpl

        @hookimpl
        def staddle_commands():
            return [click.Command("hello")]
        """,
        entry="cmd",
    )
    world.add("zzz-bad", "1 / 0", entry="bad")
    assert [command.name for command in world.registry().commands()] == ["hello"]


def test_capabilities_keep_their_surety(world):
    world.add("staddle-shelf", GOOD.format(name="shelf"), entry="shelf")
    declarations = declared(world.registry().media_type("shelf"))
    assert [(c.name, c.surety) for c in declarations] == [
        ("RANDOM_READ", "declared"),
        ("CAPACITY", "declared"),
    ]
    findings = [
        Capability("CAPACITY", Surety.PROBED, "none", holds=False),
        Capability("FENCE", Surety.PROBED),
    ]
    merged = {c.name: c for c in merge_capabilities(declarations, findings)}
    assert list(merged) == ["CAPACITY", "FENCE", "RANDOM_READ"]
    assert not merged["CAPACITY"].holds
    assert merged["RANDOM_READ"].surety == Surety.DECLARED
    assert merged["FENCE"].surety == Surety.PROBED


def test_the_code_in_the_guide_is_a_plugin(world):
    guide = (REPO / "docs" / "plugins.md").read_text("utf-8")
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "@hookimpl" in block
    ]
    world.add("staddle-shelf", code, entry="shelf")
    assert world.registry().media_type("shelf").summary == "objects on a shelf"
    assert world.registry().problems(load=True) == []


def test_the_example_works_after_an_ordinary_install(tmp_path):
    """Installed from its wheel into a directory of its own, then used by another interpreter."""
    site = tmp_path / "site"
    # Copied first: a build leaves files beside its sources.
    source = shutil.copytree(
        REPO / "contrib" / "example_media",
        tmp_path / "source",
        ignore=shutil.ignore_patterns("__pycache__", "build"),
    )
    install = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    if util.find_spec("hatchling"):
        install.append("--no-build-isolation")
    subprocess.run([*install, "--target", str(site), str(source)], check=True, timeout=240)
    code = """
        import sys, blake3
        from staddle.api.media import Deadline
        from staddle.api.types import Label
        from staddle.plugins import PluginRegistry
        registry = PluginRegistry()
        info = next(info for info in registry.all() if info.name == "example")
        assert (info.distribution, info.state) == ("staddle-example-media", "found"), info
        assert "staddle_example_media" not in sys.modules
        kind = registry.media_type("example")
        assert "sqlite3" not in sys.modules
        medium = kind.load()("m", kind.config_type(path=sys.argv[1]))
        label = Label(grid=b"g" * 16, medium="m", volume=b"v" * 16, created_ns=1)
        medium.initialize(label, (label.grid.hex() + label.volume.hex()).encode(), Deadline(20))
        volume = medium.open(label, "write", 1, Deadline(20))
        volume.put("c0/aa", [b"it works"], blake3.blake3(b"it works").digest(), Deadline(20))
        print(volume.get("c0/aa", 3, 5, Deadline(20)).decode(), sys.modules["staddle_example_media"].__file__)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "volume")],
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("works " + str(site))
