"""Each medium and each agent is away in turn: everything is restored from the others."""


def test_any_single_medium_or_agent_may_be_away(tmp_path, seed):
    from scene import Scene

    with Scene(tmp_path, seed, size_bytes=16 << 20, rate=64 << 20) as scene:
        # Small backups after one another spread over all the media.
        scene.start()
        summary = scene.finish()
        used = {row[0] for row in scene.sql("SELECT DISTINCT medium FROM v_copies WHERE kind = 'container'")}
        assert len(used) >= 2
        for medium in sorted(used):
            scene.grid.take_away(medium)
            scene.check_restore(summary["backup"])
            scene.grid.bring_back(medium)
        scene.await_media()
        for agent in ("a1", "a2", "a3"):
            scene.grid.kill(f"agent-{agent}")
            scene.check_restore(summary["backup"])
            scene.grid.up()
        scene.await_media()
        scene.check_data()
