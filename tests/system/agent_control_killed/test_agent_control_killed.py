"""kill -9 of an agent's control process alone: its data process ends by itself, and the job goes on."""

from faults import AgentControlKilled
from unusual import only_in_soak


@only_in_soak
def test_a_job_survives_the_death_of_an_agents_control_process(scene):
    scene.start()
    agent = scene.flow().paths[0].agent
    fault = AgentControlKilled(scene, scene.rng, agent)
    fault.begin()
    summary = scene.finish()
    scene.check_failover(summary, {"agent_lost", "agent_silent"}, agent)
    scene.verdict(summary)
    fault.heal()
    scene.await_media()
    scene.check_data()
