"""Two streams of one job, and the agent of one of them is killed."""


def test_a_job_of_two_streams_survives_the_death_of_an_agent(scene):
    scene.start("--streams", "2")
    row = scene.flow(high=0.45)
    assert len(row.paths) == 2
    agent = scene.rng.choice([path.agent for path in row.paths if path.state == "open"])
    scene.grid.kill(f"agent-{agent}")
    summary = scene.finish()
    scene.check_failover(summary, {"agent_lost", "agent_silent"}, agent)
    assert all(path.agent != agent for path in scene.grid.job(scene.job).paths if path.state == "done")
    scene.verdict(summary)
    assert scene.short_objects(summary["backup"]) == 0
