"""The driver that the guide shows, as it stands there."""

import re
import textwrap
from pathlib import Path
from types import SimpleNamespace

import blake3
import pytest

from staddle import errors
from staddle.api.media import Deadline
from staddle.api.types import Label

LABEL = Label(grid=b"g" * 16, medium="m", volume=b"v" * 16, created_ns=1)
TEXT = (LABEL.grid.hex() + LABEL.volume.hex()).encode()


def soon():
    return Deadline(20.0)


def put(volume, name, data):
    return volume.put(name, [data], blake3.blake3(data).digest(), soon())


def test_the_driver_in_the_guide_works(tmp_path):
    guide = Path(__file__).parents[2] / "docs" / "plugins.md"
    blocks = re.findall(r"^ *```python\n(.*?)^ *```$", guide.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (code,) = [textwrap.dedent(block) for block in blocks if "(StoreMedium)" in block]
    exec(compile(code, "plugins.md", "exec"), namespace := {"__name__": "staddle_shelf.driver"})
    shelf = namespace["Shelf"]("m", SimpleNamespace(path=str(tmp_path / "shelf")))
    shelf.initialize(LABEL, TEXT, soon())
    assert all(finding.holds for finding in shelf.probe(soon()))
    volume = shelf.open(LABEL, "write", 1, soon())
    for name in ("c0/1", "c0/0", "c0"):
        assert put(volume, name, name.encode()) == put(volume, name, name.encode())
    with pytest.raises(errors.Conflict):
        put(volume, "c0", b"other")
    with pytest.raises(errors.Corrupt):
        volume.get("c0", 0, 1 << 62, soon())
    assert volume.get("c0/1", 1, 3, soon()) == b"0/1"
    volume.delete("c0/0", soon())
    assert [info.name for info in volume.list("", soon())] == ["c0", "c0/1"]
    assert len(list((tmp_path / "shelf").iterdir())) == 3
