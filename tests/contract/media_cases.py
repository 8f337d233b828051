"""What the clause tests of media share: the media at hand, and short words for their calls."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import blake3
import pytest

from staddle.api.media import Deadline
from staddle.api.types import Kind, Label, object_name

REPO = Path(__file__).parents[2]
EXAMPLE = REPO / "contrib" / "example_media"
HELPER = Path(__file__).with_name("media_process.py")
LABEL = Label(grid=b"g" * 16, medium="m1", volume=b"v" * 16, created_ns=1)
OTHER = Label(grid=b"g" * 16, medium="m1", volume=b"w" * 16, created_ns=1)


def soon():
    return Deadline(20.0)


def text_of(label):
    return f"a volume\ngrid: {label.grid.hex()}\nvolume: {label.volume.hex()}\n".encode()


def digest_of(*parts):
    return blake3.blake3(b"".join(parts)).digest()


def put(volume, name, *parts, deadline=None):
    return volume.put(name, parts, digest_of(*parts), deadline or soon())


def whole(volume, name):
    return volume.get(name, 0, volume.stat(name, soon()).size_bytes, soon())


def names(volume, after="", prefix=""):
    return [info.name for info in volume.list(after, soon(), prefix)]


class Case:
    """One kind of medium and where its one volume is."""

    def __init__(self, kind, where):
        module = {
            "directory": "staddle.media.directory_plugin",
            "memory": "staddle.media.memory_plugin",
            "example": "staddle_example_media",
        }[kind]
        self.kind, self.where, self.module = kind, str(where), module
        self.type = __import__(module, fromlist=["x"]).staddle_media()[0]
        self.options = {"store": self.where} if kind == "memory" else {"path": self.where}

    def medium(self):
        return self.type.load()("m1", self.type.config_type(**self.options))

    def open(self, mode="write", epoch=1):
        return self.medium().open(LABEL, mode, epoch, soon())

    def fresh(self):
        """A volume that nothing was ever stored on."""
        self.options = {key: value + "+" for key, value in self.options.items()}
        self.medium().initialize(LABEL, text_of(LABEL), soon())
        return self.open()

    def spawn(self, *arguments):
        command = [sys.executable, str(HELPER), self.module, json.dumps(self.options), *arguments]
        environment = os.environ | {"PYTHONPATH": str(EXAMPLE)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def new_name(rng=random):
    return object_name(Kind.CONTAINER, rng.randbytes(16), rng.randbytes(8))


def only(*kinds):
    """Leave out the media that a clause says nothing about; `test_what_is_left_out` looks after it."""
    return pytest.mark.parametrize("blank", kinds, indirect=True)


# A medium in memory has no second process, no other owner and no power loss.
ON_DISK = only("directory", "example")
FENCING = only("memory")
