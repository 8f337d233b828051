"""The last records of the manager's log are gone after a crash: it is said, and the media bring all back."""

import os
import random
import shutil

from staddle.catalog.logformat import HEADER_BYTES, decode_header, read_frames
from staddle.catalog.logrecovery import log_names
from staddle.config import home_paths, load
from staddle.daemon.setup import Identities
from staddle.demo.compare import differences
from staddle.demo.grid import grid as real_grid

FRAMES_LOST = 3


def blank_the_end(home):
    """Of the newest file the last frames, as a disk does that has lost what it had promised to keep."""
    directory = home_paths(home).oplog
    path = os.path.join(directory, log_names(directory)[-1][2])
    with open(path, "r+b") as file:
        data = file.read()
        header = decode_header(data, path, Identities(load(home)).grid)
        ends = [HEADER_BYTES, *(end for end, _ in read_frames(memoryview(data), header, path))]
        assert len(ends) > FRAMES_LOST + 1
        start = ends[-1 - FRAMES_LOST]
        file.seek(start)
        file.write(bytes(len(data) - start))


def test_a_log_that_has_lost_its_end_is_not_taken_for_a_whole_one(tmp_path, seed):
    source = tmp_path / "src"
    source.mkdir()
    (source / "file").write_bytes(random.Random(seed).randbytes(1 << 20))
    with real_grid(str(tmp_path / "grid"), 1) as grid:
        running = grid.backup(str(source), "--name", "work")
        assert running.wait(120.0) == 0, (running.lines, running.errors)
        backup = running.summary["backup"]
        assert grid.json("sql", "SELECT count(*) FROM v_backups")["rows"] == [[1]], "the catalog has it"
        grid.kill_everything()
        blank_the_end(grid.home)
        done = grid.run("up", check=False)
        assert done.returncode == 13, done.stderr
        assert "was acknowledged and is not there" in done.stderr
        assert "catalog rebuild" in done.stderr, "and what to do"
        grid.down()
        # As it says:
        shutil.move(home_paths(grid.home).manager, tmp_path / "aside")
        grid.up()
        grid.run("catalog", "rebuild")
        target = tmp_path / "out"
        grid.run("restore", str(backup), "--to", str(target))
        wrong = list(differences(os.fsencode(source), os.fsencode(f"{target}{source}")))
        assert not wrong, wrong
