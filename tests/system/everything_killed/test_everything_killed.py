"""kill -9 of every process at once, the client's too: nothing that was acknowledged is lost."""

import os
import random


def test_nothing_acknowledged_is_lost_when_everything_is_killed(scene):
    early = os.path.join(scene.source, "names")
    done = scene.grid.run("backup", early, "--name", "early")
    assert done.returncode == 0

    running = scene.start()
    acknowledged = scene.flow()
    scene.grid.kill_everything(running)
    scene.grid.up()
    scene.await_media()
    scene.check_catalog()
    scene.check_data()

    # What the log had told to anybody is in it still.
    row = scene.grid.job(scene.job)
    assert row.bytes_read >= acknowledged.bytes_read
    assert row.files >= acknowledged.files
    assert row.state != "complete"
    listed = {each["backup"]: each["state"] for each in scene.grid.json("ls")}
    assert listed == {1: "complete", row.backup: row.state if row.state == "running" else "incomplete"}
    whole, scene.source = scene.source, early
    scene.check_restore(1)

    scene.source = whole
    summary = go_on(scene)
    assert summary["failovers"] == []
    scene.verdict(summary)
    check_idle(scene, summary)


def go_on(scene):
    """The same command again: it goes on with the job, unless the lease of the killed client has run out."""
    if scene.grid.job(scene.job).state == "running":
        scene.running = scene.grid.backup(scene.source, "--name", scene.name)
        summary = scene.finish()
        assert summary["bytes_read"] == scene.total, "what the first process read counts, and nothing twice"
        return summary
    scene.start()
    return scene.finish()


def check_idle(scene, summary):
    """A grid that is killed while nothing happens comes back as it was."""
    before = scene.sql("FROM v_copies ORDER BY ALL"), scene.grid.json("ls")
    scene.grid.kill_everything()
    scene.grid.up()
    scene.await_media()
    assert before == (scene.sql("FROM v_copies ORDER BY ALL"), scene.grid.json("ls"))
    scene.verdict(summary)
    with open(os.path.join(scene.source, "later"), "wb") as file:
        file.write(random.Random(1).randbytes(300_000))
    scene.start()
    again = scene.finish()
    assert again["bytes_read"] == 300_000
    scene.verdict(again)
    scene.check_data()
