"""kill -9 of an agent's data process alone: its control process ends too, and the job goes on elsewhere."""

from faults import AgentDataKilled
from unusual import only_in_soak


@only_in_soak
def test_a_job_survives_the_death_of_an_agents_data_process(scene):
    scene.start()
    agent = scene.flow().paths[0].agent
    fault = AgentDataKilled(scene, scene.rng, agent)
    fault.begin()
    summary = scene.finish()
    scene.check_failover(summary, {"agent_lost", "agent_silent"}, agent)
    scene.verdict(summary)
    fault.heal()
    scene.await_media()
    scene.check_data()
