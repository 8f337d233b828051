"""A client on another host: joins with a token once, backs up over TLS, sees and may do its own only."""

import json
import os
import subprocess

from staddle.demo.compare import differences
from staddle.demo.grid import STADDLE, grid


def client(directory, *words):
    """Run a command as the joined client: it has no home, and no local socket is given to it."""
    environment = {name: value for name, value in os.environ.items() if name != "STADDLE_HOME"}
    environment["STADDLE_CLIENT"] = directory
    return subprocess.run(
        [*STADDLE, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_client_joins_once_and_reaches_only_its_own(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(os.urandom(2 << 20))
    (source / "b").write_text("text\n" * 1000)
    own, other = str(tmp_path / "own"), str(tmp_path / "other")
    with grid(str(tmp_path / "grid"), 1) as home:
        token = json.loads(home.run("client", "token", "laptop", "--json").stdout)["token"]
        assert client(own, "join", token).returncode == 2  # the command is `client join`
        assert client(own, "client", "join", token).returncode == 0
        assert client(other, "client", "join", token).returncode == 12, "a token is used once"

        done = client(own, "backup", str(source), "--name", "mine", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["files"] == 2
        home.run("backup", str(source), "--name", "not-mine")

        listed = json.loads(client(own, "ls", "--json").stdout)
        assert [(each["client"], each["name"]) for each in listed] == [("laptop", "mine")]
        assert len(json.loads(home.run("ls", "--json").stdout)) == 2
        target = tmp_path / "restored"
        assert client(own, "restore", "1", "--to", str(target)).returncode == 0
        restored = os.path.join(os.fsencode(target), os.fsencode(source).lstrip(b"/"))
        assert list(differences(os.fsencode(source), restored)) == []

        for words in (
            ["restore", "2", "--to", str(tmp_path / "stolen")],
            ["ls", "2"],
            ["prune", "1", "--yes"],
            ["sql", "SELECT * FROM v_backups"],
            ["client", "token", "another"],
        ):
            refused = client(own, *words)
            assert refused.returncode == 12, (words, refused.stdout, refused.stderr)
            assert "Traceback" not in refused.stderr
