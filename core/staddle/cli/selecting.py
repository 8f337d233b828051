"""The options of `backup` that say what is read, and what of it is left out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from staddle.client.scan import Rules, Tag

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("--exclude", "-e"), {"multiple": True, "metavar": "PATTERN", "help": "Leave out what matches."}),
    (("--iexclude",), {"multiple": True, "metavar": "PATTERN", "help": "The same, in upper or lower case."}),
    (
        ("--exclude-file",),
        {
            "multiple": True,
            "metavar": "FILE",
            "help": "Patterns from a file, one per line; # begins a comment.",
        },
    ),
    (
        ("--iexclude-file",),
        {"multiple": True, "metavar": "FILE", "help": "The same, in upper or lower case."},
    ),
    (
        ("--exclude-larger-than",),
        {"metavar": "SIZE", "help": "Leave out longer files: bytes, or with k, M, G, T (powers of 1024)."},
    ),
    (
        ("--exclude-if-present",),
        {
            "multiple": True,
            "metavar": "NAME[:HEADER]",
            "help": "Leave out what lies in directories with such a file.",
        },
    ),
    (("--exclude-caches",), {"is_flag": True, "help": "Leave out what lies beside a valid CACHEDIR.TAG."}),
    (
        ("--one-file-system", "-x"),
        {"is_flag": True, "help": "Stay on the file systems of the PATHs; mount points stay, empty."},
    ),
    (("--nodump",), {"is_flag": True, "help": "Leave out what has the nodump flag (chattr +d)."}),
    (
        ("--files-from",),
        {
            "multiple": True,
            "metavar": "FILE",
            "help": "PATHs from a file, one per line, with * and ?; - is stdin.",
        },
    ),
    (
        ("--files-from0",),
        {"multiple": True, "metavar": "FILE", "help": "PATHs from a file as they are, each ended by NUL."},
    ),
    (("--stdin",), {"metavar": "NAME", "help": "Back up standard input as /NAME."}),
    (
        ("--stdin-from-command",),
        {"is_flag": True, "help": "With --stdin NAME: the output of the command after -- instead."},
    ),
    (
        ("--image",),
        {"multiple": True, "metavar": "DEVICE_OR_FILE", "help": "Back up a device block by block."},
    ),
]

_SIZE = re.compile(r"(\d{1,15})([kKmMgGtT]?)")
_SOURCES = frozenset({"stdin", "stdin_from_command", "image"})
_LIST_BYTES_MAX = 256 << 20


def selecting_options(command: Command) -> Command:
    """Add them all; the command gets them as keyword arguments."""
    for names, settings in reversed(_OPTIONS):
        command = click.option(*names, **settings)(command)
    return command


def chosen(paths: tuple[str, ...], home: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of BackupOptions that say what is read. Raises UsageError."""
    from staddle.client.own import own_directories
    from staddle.client.sorting import Sorter
    from staddle.errors import UsageError

    one_thing = _one_thing(paths, options)
    if one_thing is not None:
        return one_thing
    if any(not path or "\0" in path for path in paths):
        raise UsageError("a PATH is empty, or holds NUL", hint="name a path; `.` is the directory you are in")
    # All are read before anything is asked of the grid: a list may come slowly, through a pipe.
    listed = Sorter(_listed(options))
    if not paths and next(iter(listed), None) is None:
        raise click.UsageError(
            "Missing argument 'PATH...': name files or directories, or use --files-from, --stdin or --image."
        )
    return {
        "paths": [os.fsencode(path) for path in paths],
        "listed": listed,
        "exclude": [*options["exclude"], *_patterns(options["exclude_file"])],
        "iexclude": [*options["iexclude"], *_patterns(options["iexclude_file"])],
        "rules": _rules(options, own_directories(home)),
    }


def _one_thing(paths: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any] | None:
    """A stream or images, which have nothing to choose from; None for files."""
    from staddle.errors import UsageError

    stdin, from_command, images = options["stdin"], options["stdin_from_command"], options["image"]
    if from_command and stdin is None:
        raise UsageError(
            "--stdin-from-command needs --stdin NAME",
            hint="say what the output is to be called: --stdin dump.sql --stdin-from-command -- COMMAND",
        )
    if stdin is None and not images:
        return None
    what = "--image" if images else "--stdin"
    if stdin is not None and images:
        raise UsageError("--stdin and --image do not go together", hint="make two backups of it")
    meaningless = [name for name, value in options.items() if value and name not in _SOURCES]
    if meaningless:
        option = "--" + meaningless[0].replace("_", "-")
        raise UsageError(f"{option} has no meaning with {what}", hint="leave it out")
    if from_command:
        if not paths:
            raise UsageError(
                "--stdin-from-command without a command", hint="write it behind --, with its arguments"
            )
        return {"paths": [], "stdin": stdin, "command": list(paths)}
    if paths:
        raise UsageError(
            f"{what} and PATH {paths[0]!r} do not go together",
            hint="make two backups of it; a command comes with --stdin-from-command",
        )
    return {"paths": [], "stdin": stdin, "images": [os.fsencode(path) for path in images]}


def _rules(options: dict[str, Any], own: frozenset[tuple[int, int]]) -> Rules:
    from staddle.client.scan import CACHE_TAG, Rules

    tags = [_tag(given) for given in options["exclude_if_present"]]
    larger_than = options["exclude_larger_than"]
    return Rules(
        larger_than_bytes=-1 if larger_than is None else _size(larger_than),
        tags=(*tags, *([CACHE_TAG] if options["exclude_caches"] else [])),
        one_file_system=options["one_file_system"],
        nodump=options["nodump"],
        own=own,
    )


def _size(text: str) -> int:
    from staddle.errors import UsageError

    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"--exclude-larger-than {text!r} is no size",
            hint="give bytes, or a number with k, M, G or T: 500M",
        )
    return int(found[1]) << 10 * " KMGT".index(found[2].upper() or " ")


def _tag(given: str) -> Tag:
    from staddle.client.scan import Tag
    from staddle.errors import UsageError

    name, _, header = given.partition(":")
    if not name or name in {".", ".."} or "/" in name or os.sep in name:
        raise UsageError(
            f"--exclude-if-present {given!r} has no name of a file",
            hint="give a name without '/', and after a colon how the file must begin",
        )
    return Tag(os.fsencode(name), os.fsencode(header))


def _patterns(files: tuple[str, ...]) -> list[str]:
    from staddle.client.exclude import read_patterns

    return [pattern for path in files for pattern in read_patterns(path)]


def _listed(options: dict[str, Any]) -> Iterator[bytes]:
    """Paths from lists; a pattern that finds nothing stands for itself, and is then told to be missing."""
    import glob

    from staddle.client.exclude import items_of, lines_of
    from staddle.errors import UsageError

    for path in options["files_from"]:
        for number, line in lines_of(path, "list of files", _LIST_BYTES_MAX):
            if "\0" in line:
                raise UsageError(f"{path}:{number}: no path holds NUL", hint="use --files-from0")
            matches = glob.glob(line, include_hidden=True) if glob.has_magic(line) else []
            yield from map(os.fsencode, matches or [line])
    for path in options["files_from0"]:
        yield from items_of(path, "list of files", _LIST_BYTES_MAX)
