"""A restore removes what a killed one has left, and nothing else of a name that looks like it."""

import os
import random

from hypothesis import example, given
from hypothesis import strategies as st

from staddle.client.temporary import is_temporary

from .restorekit import put, target_at, unfinished


@given(st.from_regex(rb"\A\.staddle-[0-9a-f]{0,40}(-a)?\Z"))
@example(b".staddle-00000000deadbeef")
@example(b".staddle-00000000deadbeef00000000deadbeef")
@example(b".staddle-00000000deadbeef-a")
def test_no_name_that_somebody_may_give_a_file_is_a_restores_own(name):
    assert not any(is_temporary(name, inode) for inode in (0, 2, 256, 1 << 40))


def test_a_file_of_the_users_is_never_taken_for_one_that_a_restore_has_left(tmp_path, seed):
    rng, to = random.Random(seed), tmp_path / "to"
    os.makedirs(to / "d")
    theirs = {}
    for place in (to, to / "d"):
        names = [b".staddle-00000000deadbeef", b".staddle-%032x" % rng.getrandbits(128)]
        # What was left in another directory and was moved, copied or restored to here.
        names.append(os.path.basename(unfinished(tmp_path)))
        for name in names:
            theirs[os.path.join(os.fsencode(place), name)] = name
            put(os.path.join(os.fsencode(place), name), name)
    with target_at(to) as (target, _):
        for path in (b"/d/g", b"/f"):
            fresh = target.create_file(path)
            target.publish(fresh)
            fresh.close()
    for path, content in theirs.items():
        with open(path, "rb") as file:
            assert file.read() == content
