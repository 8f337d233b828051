"""kill -9 of the agent that a stream goes through: the same job goes on through another one."""


def test_a_job_survives_the_death_of_its_agent(scene):
    scene.start()
    agent = scene.flow().paths[0].agent
    scene.grid.kill(f"agent-{agent}")
    summary = scene.finish()
    scene.check_failover(summary, {"agent_lost", "agent_silent"}, agent)
    status = {each["name"]: each["state"] for each in scene.grid.json("status")["agents"]}
    assert status[agent] == "down"
    scene.verdict(summary)
    assert scene.short_objects(summary["backup"]) == 0
