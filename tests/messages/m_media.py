"""Media that can't be used: one grid with one of each kind, all looked at by the same agent."""

import hashlib
import os
import shutil
import time

from staddle.api.media import Deadline
from staddle.config import home_paths, load
from staddle.daemon import runfiles
from staddle.daemon.agent.media import build
from staddle.errors import StaddleError
from staddle.platform import process
from staddle.plugins import PluginRegistry

from .lab import IS_ROOT, NOBODY, Said
from .mistake import group

media = group("Media")

KINDS = [
    "gone",
    "file",
    "stray",
    "foreign",
    "newer",
    "damaged",
    "unmounted",
    "readonly",
    "missing",
    "faulty",
]
_WAIT_S = 60.0


def place(home, name):
    return home_paths(home).medium(name)


def sick(lab):
    """The home, up, with every sick medium there is."""
    return lab.once("sick", lambda: _sick(lab))


def _tables(text):
    found = []
    for name in KINDS:
        plugin = "drectory" if name == "missing" else "directory"
        options = {"unmounted": "mount = true\n", "faulty": 'fault_file = "faults.json"\n'}.get(name, "")
        if plugin == "directory":
            options += f'path = "media/{name}"\n'
        found.append(f'\n[medium.{name}]\nplugin = "{plugin}"\n{options}')
        found.append(f'\n[pool.{name}]\nmedia = ["{name}"]\nwait_offline_s = 0.5\nwait_busy_s = 0.5\n')
    return text + "wait_offline_s = 0.5\n" + "".join(found)


def _sick(lab):
    home = lab.new_home(_tables)
    for name in KINDS:
        if name not in {"gone", "file", "missing"}:
            os.makedirs(place(home, name))
    with open(place(home, "file"), "w", encoding="utf-8") as file:
        file.write("no directory")
    with open(os.path.join(place(home, "stray"), "photo.jpg"), "w", encoding="utf-8") as file:
        file.write("somebody's")
    shutil.copytree(place(lab.warm, "m1"), place(home, "foreign"), dirs_exist_ok=True)
    label = _label_of(place(lab.warm, "m1"))
    for name, change in (
        ("newer", _newer),
        ("damaged", lambda text: text.replace(b"medium: ", b"medium; ", 1)),
    ):
        shutil.copytree(place(lab.warm, "m1"), place(home, name), dirs_exist_ok=True)
        with open(os.path.join(place(home, name), os.path.basename(label)), "r+b") as file:
            text = change(file.read())
            file.seek(0)
            file.write(text)
    with open(os.path.join(home, "faults.json"), "w", encoding="utf-8") as file:
        file.write('[{"op": "putt"}]')
    if IS_ROOT:
        lab.mount(place(home, "readonly"), "size=8m,ro")
    lab.call("up", "--home", home)
    end = time.monotonic() + _WAIT_S
    while "not looked at yet" in (said := lab.call("status", "--home", home)).err + said.out:
        assert time.monotonic() < end, said
        time.sleep(0.2)
    return home


def _newer(text):
    text = text.replace(b"STADDLE VOLUME 1\n", b"STADDLE VOLUME 9\n", 1).rpartition(b"check: ")[0]
    return text + b"check: " + hashlib.sha256(text).hexdigest().encode() + b"\n"


def _label_of(directory):
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            with open(path, "rb") as file:
                if file.read(14) == b"STADDLE VOLUME":
                    return path
    raise AssertionError(directory)


def seen(lab, name):
    """What `status` says of one medium."""
    said = lab.call("status", "--home", sick(lab))
    lines = [line for line in said.err.splitlines(keepends=True) if f"medium {name}:" in line]
    return Said(said.code, said.out, "".join(lines))


@media(0, "medium gone: HOME/media/gone is not there", "is it mounted? a new one: make the directory")
def a_medium_that_is_not_there(lab):
    """`status`: the directory of a medium is not there."""
    return seen(lab, "gone")


@media(0, "medium file: HOME/media/file is not there", "is it mounted? a new one: make the directory")
def a_medium_that_is_a_file(lab):
    """`status`: a file is where a medium's directory should be."""
    return seen(lab, "file")


@media(
    0,
    "medium stray: HOME/media/stray is not empty (it holds 'photo.jpg') and has no label of ours",
    "give the medium an empty directory",
)
def a_medium_with_other_things(lab):
    """`status`: a new medium's directory holds something else."""
    return seen(lab, "stray")


@media(
    0,
    "medium foreign: medium 'foreign' holds a volume of another grid, GRID",
    "configure another place for it, or remove that volume",
)
def a_medium_of_another_grid(lab):
    """`status`: the medium belongs to another grid."""
    return seen(lab, "foreign")


@media(
    0,
    "medium newer: volume label: format 9, and this release reads up to 1",
    "use a newer release of Staddle",
)
def a_medium_of_a_newer_release(lab):
    """`status`: the medium was labelled by a newer release."""
    return seen(lab, "newer")


@media(0, "medium damaged: volume label: damaged, or no label of Staddle's", "see what lies on the volume")
def a_damaged_label(lab):
    """`status`: the medium's label is damaged."""
    return seen(lab, "damaged")


@media(
    0, "medium unmounted: HOME/media/unmounted is not on a mounted file system", "mount it, then try again"
)
def a_medium_that_is_not_mounted(lab):
    """`status`: `mount = true`, and nothing is mounted there."""
    return seen(lab, "unmounted")


@media(
    0,
    "medium readonly: HOME/media/readonly is mounted read-only",
    "look in the system's log for disk errors, mount it for writing",
    root=True,
)
def a_read_only_medium(lab):
    """`status`: the medium's file system is read-only."""
    return seen(lab, "readonly")


@media(
    0,
    "medium missing: no media plugin 'drectory' is installed; did you mean 'directory'",
    "installed: ALL",
)
def a_plugin_that_is_missing(lab):
    """`status`: the medium's plugin is not installed."""
    return seen(lab, "missing")


@media(
    0,
    "medium faulty: fault file HOME/faults.json: Invalid enum value 'putt' - at `$[0].op`",
    "correct it, or remove it: docs/plugins.md",
)
def a_fault_file_that_is_none(lab):
    """`status`: a medium's `fault_file`, for drills, holds a rule that does not exist."""
    return seen(lab, "faulty")


@media(
    0,
    "medium m1: read the label of HOME/media/m1: Permission denied",
    "the agent's user must own the directory",
    root=True,
)
def a_medium_of_another_user(lab):
    """The medium's directory belongs to another user than the agent's; in the agent's log."""
    home = lab.new_home(used=True)
    medium = build(load(home), "a1", PluginRegistry()).media["m1"]
    os.chmod(home, 0o755)
    os.chmod(os.path.dirname(place(home, "m1")), 0o755)
    os.seteuid(NOBODY)
    try:
        medium.read_label(Deadline(30.0))
    except StaddleError as error:
        return Said(0, "", f"staddle: medium m1: {error}\n")
    finally:
        os.seteuid(0)
        medium.close()
    return Said(0, "", "")


@media(
    5,
    "pool 'gone' can't be used: none of its media has been ready yet",
    "`staddle status` says what each of them lacks",
)
def a_backup_without_a_path(lab):
    """A backup to a pool none of whose media can be used."""
    return lab.run(
        "backup", lab.source, "--name", "gone", "--pool", "gone", "--home", sick(lab), as_json=False
    )


@media(
    1,
    (
        "no data path for 1 s: pool main: every data path that could hold 1 copies is offline or has "
        "just failed"
    ),
    "see `staddle status`; what is durable stays as an incomplete backup",
)
def no_agent(lab):
    """No agent is up: the job waits for as long as its pool says, and ends."""
    home = sick(lab)
    running = runfiles.running(home, "agent-a1")
    for pid in [running.pid, *running.pids] if running else []:
        process.kill(pid)
    return lab.run("backup", lab.source, "--name", "letters", "--pool", "main", "--home", home, as_json=False)
