"""Labels that are written again, through the layers round a driver."""

import pytest

from staddle import errors
from staddle.api.media import Deadline
from staddle.api.types import Label
from staddle.media.directory import DirectoryMedium
from staddle.media.memory import MemoryMedium
from staddle.media.options import DirectoryConfig, MemoryConfig
from staddle.wrap.layers import WrappedMedium

LABEL = Label(grid=b"g" * 16, medium="m", volume=b"v" * 16, created_ns=1)


def test_a_driver_that_can_not_write_a_label_again_is_said_to_be_one():
    medium = MemoryMedium("relabel", MemoryConfig())
    wrapped = WrappedMedium(medium, "m", [])
    for ask in (
        lambda: wrapped.open_unlabelled(LABEL, Deadline(20)),
        lambda: wrapped.relabel(LABEL, b"text", b"", Deadline(20)),
    ):
        with pytest.raises(errors.MediumFailed, match="its plugin can't write a label again"):
            ask()


def test_a_volume_that_is_opened_without_its_label_goes_through_the_layers(tmp_path):
    seen = []

    class Seer:
        def around(self, call, make):
            seen.append(call.op)
            return make()

        def close(self):
            pass

    directory = DirectoryMedium("m", DirectoryConfig(path=str(tmp_path)))
    wrapped = WrappedMedium(directory, "m", [Seer()])
    volume = wrapped.open_unlabelled(LABEL, Deadline(20))
    with pytest.raises(errors.NotFound):
        volume.stat("c0/aa", Deadline(20))
    wrapped.relabel(LABEL, b"text", b"", Deadline(20))
    assert wrapped.read_label(Deadline(20)) == b"text"
    assert seen == ["open", "stat", "initialize", "read_label"]
