"""The documents and the code say the same: hooks, codes, links, commands, examples."""

import ast
import importlib
import importlib.util
import re
import shlex
import sys
import tomllib
from pathlib import Path

import click
import pluggy
import pytest

import staddle
from staddle import cli, errors, hookspecs
from staddle.wire.ops.base import Operation

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(page for top in ("docs", "plugins", "contrib") for page in sorted((ROOT / top).rglob("*.md"))),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SHELLS = {"sh", "bash", "console"}
OTHER_COMMANDS = {".", "cd", "export", "git", "kill", "pip", "rm"}
WARNINGS_EXIT, INTERRUPTED_EXIT = 3, 130  # those that no error class carries


def text_of(page):
    return page.read_text(encoding="utf-8")


def named(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page, *languages):
    return [body for language, body in FENCE.findall(text_of(page)) if language in languages]


def command_lines():
    """(page, words) of every line in a shell block."""
    return [
        (named(page), shlex.split(line.removeprefix("$ "), comments=True))
        for page in PAGES
        for body in blocks(page, *SHELLS)
        for line in body.replace("\\\n", " ").splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]


def table_rows(page, heading):
    """Cells of the first table below `heading`, without its head."""
    lines = text_of(page).split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return rows[2:]


def error_classes():
    return [
        thing
        for thing in vars(errors).values()
        if isinstance(thing, type) and issubclass(thing, errors.StaddleError)
    ]


def dev():
    spec = importlib.util.spec_from_file_location("staddle_dev", ROOT / "dev.py")
    module = sys.modules["staddle_dev"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def slug(heading):
    """The anchor that a heading gets where repositories are read."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_every_hook_is_documented_by_its_name():
    manager = pluggy.PluginManager("staddle")
    hooks = {name for name in vars(hookspecs) if manager.parse_hookspec_opts(hookspecs, name) is not None}
    assert "staddle_media" in hooks
    pages = "".join(text_of(page) for page in (README, ROOT / "docs" / "plugins.md") if page.exists())
    assert {hook for hook in hooks if f"`{hook}`" not in pages} == set()


def test_documented_hooks_exist():
    mentioned = {word for page in PAGES for word in re.findall(r"`(staddle_[a-z_]+)`", text_of(page))}
    packages = {path.name for path in ROOT.glob("*/*/staddle_*")}
    assert {word for word in mentioned - packages if not hasattr(hookspecs, word)} == set()


def test_every_exit_code_is_documented():
    documented = {int(row[0]) for row in table_rows(ROOT / "docs/errors.md", "Exit codes")}
    used = {kind.default_exit_code for kind in error_classes()} | {0, WARNINGS_EXIT, INTERRUPTED_EXIT}
    assert documented == used


def test_every_error_class_is_documented_with_its_fields():
    rows = table_rows(ROOT / "docs/errors.md", "Error codes")
    documented = {row[0].strip("`"): tuple(cell.strip("`") for cell in row[2:]) for row in rows}
    defined = {
        kind.default_code: (
            kind.default_retry,
            kind.default_scope,
            kind.default_outcome,
            str(kind.default_exit_code),
        )
        for kind in error_classes()
    }
    assert documented == defined


def nodes_of(*paths):
    return (node for path in paths for node in ast.walk(ast.parse(path.read_bytes())))


def test_every_special_error_code_is_documented():
    sources = sorted((ROOT / "core").rglob("*.py"))
    used = {
        keyword.value.value
        for node in nodes_of(*sources)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "code"
        and isinstance(keyword.value, ast.Constant)
        and isinstance(keyword.value.value, str)
    }
    of_classes = {
        node.value.value
        for node in nodes_of(*sources)
        if isinstance(node, ast.Assign)
        and [getattr(target, "id", "") for target in node.targets] == ["default_code"]
        and isinstance(node.value, ast.Constant)
    }
    assert {"COMMAND_FAILED", "NEWER_FORMAT"} <= of_classes
    used |= of_classes
    page = text_of(ROOT / "docs/errors.md")
    assert {code for code in used if f"`{code}`" not in page} == set(), "add them to docs/errors.md"


def test_every_code_of_doctor_is_documented():
    used = {
        node.value
        for node in nodes_of(ROOT / "core/staddle/cli/doctor.py")
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch("[A-Z]+(_[A-Z]+)*", node.value)
    }
    assert {"CONFIG", "KEYS_EXPOSED", "MEDIUM_DOWN"} <= used
    documented = {
        code
        for row in table_rows(ROOT / "docs/errors.md", "What doctor finds")
        for code in re.findall("`([A-Z_]+)`", row[0])
    }
    assert documented == used


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_relative_link_leads_somewhere(page):
    broken = []
    for target in LINK.findall(FENCE.sub("", text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        anchors = (
            [slug(line.lstrip("#")) for line in text_of(aim).splitlines() if line.startswith("#")]
            if aim.suffix == ".md" and aim.is_file()
            else []
        )
        if not aim.exists() or not aim.is_relative_to(ROOT) or (anchor and anchor not in anchors):
            broken.append(target)
    assert broken == []


def test_readme_shows_the_way_from_init_to_restore():
    shown = [words[1] for page, words in command_lines() if page == "README.md" and words[0] == "staddle"]
    assert [word for word in ("init", "up", "backup", "restore") if word not in shown] == []


def test_shell_blocks_start_with_known_commands():
    known = {"staddle", "python3"} | OTHER_COMMANDS
    assert [(page, words) for page, words in command_lines() if words[0] not in known] == []


def test_every_dev_command_shown_exists():
    commands = dev().COMMANDS
    shown = [(page, words[2]) for page, words in command_lines() if words[:2] == ["python3", "dev.py"]]
    assert shown
    assert [(page, word) for page, word in shown if word not in commands] == []


def test_dev_help_names_every_command():
    module = dev()
    assert [name for name in module.COMMANDS if f"\n  {name}" not in module.usage()] == []


def staddle_lines():
    """Words after `staddle` in every shell block, also where dev.py starts it."""
    found = [words[1:] for _, words in command_lines() if words[0] == "staddle"]
    found += [words[3:] for _, words in command_lines() if words[:3] == ["python3", "dev.py", "run"]]
    return sorted({tuple(words) for words in found})


@pytest.mark.parametrize("words", staddle_lines(), ids=" ".join)
def test_every_staddle_command_shown_exists_with_its_options(words):
    command, rest = cli.cli, list(words)
    del rest[rest.index("--") if "--" in rest else len(rest) :]  # another command's words
    context = click.Context(command)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"no command {name!r}"
    options = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    options |= {"--help"}
    assert [word for word in rest if word.startswith("-") and word.split("=")[0] not in options] == []


def test_the_plugin_of_the_readme_works():
    (example,) = (body for body in blocks(README, "python") if "@hookimpl" in body)
    namespace = {"__name__": "my_shelf"}
    exec(compile(example, "README.md", "exec"), namespace)
    manager = pluggy.PluginManager("staddle")
    manager.add_hookspecs(hookspecs)
    manager.register(type("Plugin", (), {"staddle_media": staticmethod(namespace["staddle_media"])})())
    manager.check_pending()
    ((shelf,),) = manager.hook.staddle_media()
    assert isinstance(shelf, staddle.MediaType)
    assert shelf.api_version == staddle.API_VERSION


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_examples_parse(page):
    for body in blocks(page, "toml"):
        tomllib.loads(body)
    for body in blocks(page, "python"):
        compile(body, named(page), "exec")


def test_the_changelog_has_a_place_for_what_comes_and_knows_this_version():
    headings = re.findall(r"^## \[([^\]]+)\]", text_of(ROOT / "CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in headings[1:])


def test_every_operation_is_in_the_wire_page():
    page = (ROOT / "docs/wire.md").read_text(encoding="utf-8")
    found = {
        operation.name: ", ".join(sorted(operation.roles))
        for name in ("jobs", "reading", "admin", "agents", "data", "repair", "catalog")
        for operation in vars(importlib.import_module(f"staddle.wire.ops.{name}")).values()
        if isinstance(operation, Operation)
    }
    assert len(found) > 30
    missing = [name for name, roles in found.items() if f"| `{name}` | {roles} |" not in page]
    assert missing == [], "list them with their roles in docs/wire.md"
