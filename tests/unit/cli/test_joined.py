"""`status` and `doctor` on a host that has no grid of its own but has joined one."""

import json

import pytest

from staddle.cli import joined
from staddle.errors import ConfigError, PathLost
from staddle.wire.ops import admin

from .kit import invoke

GRID = bytes(range(16))
STATUS = admin.GridStatus(
    grid=GRID,
    epoch=3,
    state="up",
    pids=[1],
    url="tcp://10.0.0.1:7420",
    agents=[admin.AgentStatus(name="a1", state="up", urls=["tcp://10.0.0.1:7421"], pids=[2])],
    media=[admin.MediumStatus(name="m1", plugin="directory", state="up", path="/mnt/b", free_bytes=5 << 20)],
)


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host that has joined; the manager answers with `host.answer`."""
    monkeypatch.delenv("STADDLE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("STADDLE_CLIENT", str(tmp_path / "client"))
    (tmp_path / "client").mkdir()
    text = f'name = "laptop"\ngrid = "{GRID.hex()}"\nmanagers = ["tcp://10.0.0.1:7420"]\n'
    (tmp_path / "client" / "client.toml").write_text(text)
    answers = [STATUS]

    async def ask(settings):
        assert (settings.name, settings.grid) == ("laptop", GRID)
        if isinstance(answers[-1], Exception):
            raise answers[-1]
        return answers[-1]

    monkeypatch.setattr(joined, "ask_status", ask)
    return answers


def test_status_says_which_grid_was_joined_and_how_it_is(host):
    code, out, _ = invoke("status")
    assert (code or 0) == 0
    assert f"joined grid {GRID.hex()} as client laptop" in out
    assert "manager up" in out
    assert "m1" in out
    document = json.loads(invoke("status", "--json")[1])
    assert document["joined"] == {"grid": GRID.hex(), "client": "laptop"}
    assert [agent["state"] for agent in document["agents"]] == ["up"]


def test_doctor_checks_the_grid_that_was_joined(host):
    code, out, _ = invoke("doctor")
    assert (code or 0) == 0
    assert "as client laptop" in out
    assert "m1 is up" in out


def test_a_manager_that_does_not_answer_is_no_missing_grid(host):
    host.append(PathLost("the manager does not answer: refused", hint="is it up"))
    _, out, err = invoke("status")
    assert "as client laptop" in out
    assert "the manager does not answer: refused" in err
    assert "staddle init" not in out + err


def test_a_home_that_is_named_is_meant(host, tmp_path):
    with pytest.raises(ConfigError, match="there is no grid in"):
        invoke("status", "--home", str(tmp_path / "none"))
