"""kill -9 of the catalog's process: the manager starts another one, jobs do not notice, questions wait."""

from leaks import of_home
from unusual import only_in_soak

from staddle.platform import process


@only_in_soak
def test_a_job_does_not_notice_that_the_catalog_is_killed(scene):
    manager, catalog = pids(scene)
    scene.start()
    scene.flow()
    process.kill(catalog)
    summary = scene.finish()
    assert (summary["state"], summary["failovers"]) == ("complete", [])
    scene.grid.wait(lambda: scene.sql("SELECT count(*) FROM v_backups") == [[1]], "it answers again")
    again, other = pids(scene)
    assert (again, other != catalog) == (manager, True)
    assert process.alive(other)
    assert other in of_home(scene.grid.home)
    scene.verdict(summary)
    # Also one that is killed while nothing happens is there when it is asked.
    process.kill(other)
    scene.grid.wait(lambda: scene.sql("SELECT count(*) FROM v_backups") == [[1]], "it answers again")
    assert pids(scene)[0] == manager
    assert pids(scene)[1] not in {catalog, other}
    scene.check_catalog()


def pids(scene):
    """The manager's and the catalog's."""
    found = scene.grid.json("status")["manager"]
    assert [found["pid"]] == found["pids"][:1]
    return found["pids"]
