"""What is round the command line: broken plugins, full disks for output, Ctrl-C."""

import os
import sys

from .mistake import group

around = group("Plugins, output and interruption")


def with_plugin(lab, source):
    """A directory for `sys.path` with one plugin, `shelf`, installed in it."""
    where = lab.path("site")
    info = os.path.join(where, "staddle_shelf-1.0.dist-info")
    os.makedirs(info, exist_ok=True)
    texts = {
        os.path.join(info, "METADATA"): "Metadata-Version: 2.1\nName: staddle-shelf\nVersion: 1.0\n",
        os.path.join(info, "entry_points.txt"): "[staddle.plugins]\nshelf = staddle_shelf\n",
        os.path.join(where, "staddle_shelf.py"): source,
    }
    for path, text in texts.items():
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    return where


def show_plugin(lab, source):
    where = with_plugin(lab, source)
    sys.path.insert(0, where)
    try:
        return lab.run("plugin", "show", "shelf")
    finally:
        sys.path.remove(where)
        sys.modules.pop("staddle_shelf", None)


@around(
    10,
    (
        "plugin 'shelf' of staddle-shelf is broken: its import failed: ModuleNotFoundError: No module"
        " named 'a_module_that_nobody_has'"
    ),
    "install what it needs",
    code="PLUGIN",
)
def a_plugin_that_breaks_at_import(lab):
    """A plugin that can't be imported."""
    return show_plugin(lab, "import a_module_that_nobody_has\n")


@around(
    10,
    "no plugin 'directry' is installed",
    "did you mean 'directory'; installed: ALL",
    code="PLUGIN_MISSING",
)
def a_plugin_that_is_not_installed(lab):
    """A plugin that is not installed."""
    return lab.run("plugin", "show", "directry")


@around(1, "standard output: no space left on device", "make room, then the same command again", root=True)
def lines_of_a_restore_to_a_full_disk(lab):
    """What `restore --verbose` prints goes to a disk that is full: all is restored."""
    with open("/dev/full", "w", encoding="utf-8") as full:
        words = ["restore", "1", "-v", "--to", lab.path("verbose"), "--home", lab.home]
        said = lab.process(*words, stdout=full)
    assert os.path.isfile(lab.path("verbose") + os.path.join(lab.source, "letters", "letter-2"))
    return said


@around(1, "standard output: no space left on device", "make room, then the same command again", root=True)
def output_to_a_full_disk(lab):
    """The output goes to a disk that is full."""
    with open("/dev/full", "w", encoding="utf-8") as full:
        return lab.process("ls", "--home", lab.home, stdout=full)
