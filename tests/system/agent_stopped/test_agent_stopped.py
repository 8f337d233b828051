"""An agent falls silent, and wakes up when its job has long ended elsewhere: a zombie, to be fenced."""


def objects_on(scene):
    return set(map(tuple, scene.sql("SELECT medium, kind, object, name FROM v_copies")))


def test_a_stopped_agent_is_left_and_does_no_damage_when_it_wakes_up(scene):
    scene.start()
    agent = scene.flow().paths[0].agent
    scene.grid.stop(f"agent-{agent}")
    summary = scene.finish()
    scene.check_failover(summary, {"agent_silent", "agent_lost"}, agent)
    scene.verdict(summary)
    before = objects_on(scene)

    scene.grid.resume(f"agent-{agent}")
    scene.grid.wait(
        lambda: {a["name"]: a["state"] for a in scene.grid.json("status")["agents"]}[agent] == "up",
        "the agent that was stopped is up again",
    )
    # What it still held of the old epoch is over: nothing of it may count, nothing may be hurt.
    assert before <= objects_on(scene)
    row = scene.grid.job(scene.job)
    assert row.state == summary["state"]
    assert row.bytes_stored == summary["bytes_stored"]
    scene.verdict(summary)
    scene.check_data()
    scene.start()
    again = scene.finish()
    assert (again["bytes_read"], again["failovers"]) == (0, [])
