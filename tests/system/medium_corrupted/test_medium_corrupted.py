"""Bytes of stored objects change, or their ends are cut off, while a job runs: the good copies are used."""

import os

import pytest
from faults import MediumCorrupted, MediumTruncated
from unusual import only_in_soak


@pytest.mark.parametrize("kind", [MediumCorrupted, MediumTruncated])
@only_in_soak
def test_damaged_objects_are_never_restored_and_their_good_copies_are(scene, kind):
    scene.start()
    scene.finish()
    first, scene.first = scene.source, scene.running.summary
    scene.new_tree("second")
    scene.start()
    medium = scene.rng.choice(scene.flow().paths[0].media)
    fault = kind(scene, scene.rng, medium)
    fault.count = 1000
    fault.begin()
    assert fault.kept, "nothing was damaged"
    summary = scene.finish()
    scene.verdict(summary)
    scene.source = first
    scene.check_restore(scene.first["backup"])
    # Whoever met a bad copy has reported it: it is none of the good ones any more.
    good = {row[0] for row in scene.sql(f"SELECT name FROM v_copies WHERE medium = '{medium}'")}
    damaged = {os.path.relpath(path, scene.grid.medium_path(medium)) for path in fault.kept}
    if damaged & good:  # not met by anybody yet
        done = scene.grid.run("verify", "--read-data", check=False)
        assert done.returncode == 13, f"damage is not found: exit {done.returncode}: {done.stdout}"
    fault.heal()
    scene.check_restore(scene.first["backup"])
