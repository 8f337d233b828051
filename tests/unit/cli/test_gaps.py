"""A configuration that can be read and is of no use is said to be so."""

from staddle.cli.grid import gaps
from staddle.config import load
from staddle.daemon.setup import initialise
from staddle.ids import Ids


def test_tables_that_are_missing_are_named(tmp_path):
    home = tmp_path / "home"
    initialise(str(home), 1, Ids())
    assert gaps(load(str(home))) == []
    text = (home / "staddle.toml").read_text()
    head = text[: text.index("[medium.m1]")]
    (home / "staddle.toml").write_text(head)
    assert gaps(load(str(home))) == [
        "no [medium.NAME] is in staddle.toml",
        "no [pool.NAME] is in staddle.toml",
    ]
