"""Configuration: what is right is read, what is wrong is named with file, line and suggestion."""

import os

import pytest

from staddle.config import home_paths, initial_text, load
from staddle.config_convert import LineIndex
from staddle.errors import ConfigError
from staddle.plugins import PluginRegistry

GRID = "0123456789abcdef" * 2
BASE = f"""\
[grid]
id = "{GRID}"

[manager]
listen = "tcp://127.0.0.1:7420"

[agent.a1]
listen = "tcp://127.0.0.1:7421"

[medium.m1]
plugin = "directory"
path = "media/m1"

[pool.main]
media = ["m1"]

"""


@pytest.fixture
def home(tmp_path):
    def write(text=BASE, **more):
        (tmp_path / "conf.d").mkdir(exist_ok=True)
        (tmp_path / "staddle.toml").write_text(text)
        for name, content in more.items():
            (tmp_path / "conf.d" / f"{name}.toml").write_text(content)
        return str(tmp_path)

    return write


def problems(path):
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value).replace(path + os.sep, "").split("\n")


def test_defaults(home):
    settings = load(home())
    medium = settings.medium["m1"]
    assert (medium.plugin, medium.failure_domain, medium.deadline_s) == ("directory", "m1", 30.0)
    assert medium.options == {"path": "media/m1"}
    assert settings.media_of("a1") == ("m1",)
    pool = settings.pool["main"]
    assert (pool.copies, pool.min_copies, pool.policy, pool.domain) == (1, 1, "least_loaded", "default")
    assert settings.domain["default"].chunk_average_bytes == 131072


def test_conf_d_is_merged_by_table(home):
    path = home(
        BASE, more='[medium.m2]\nplugin = "memory"\n[agent.a2]\nlisten = "tcp://h:1"\nmedia = ["m2"]\n'
    )
    settings = load(path)
    assert sorted(settings.medium) == ["m1", "m2"]
    assert settings.media_of("a2") == ("m2",)
    assert settings.places["medium.m2", "plugin"].line == 2


def test_a_byte_order_mark_is_no_mistake(home):
    assert load(home("\ufeff" + BASE)).grid.id == GRID


def test_a_hidden_file_in_conf_d_is_an_editors(home):
    assert load(home(BASE, **{".#more": "half a line ["})).media_of("a1") == ("m1",)


def test_a_table_that_stands_twice_is_an_error(home):
    found = problems(home(BASE, more='\n[medium.m1]\nplugin = "memory"\n'))
    assert found == ["conf.d/more.toml:2: [medium.m1] stands also at staddle.toml:10"]


WRONG = {
    "unknown table": ("[pools.x]\na = 1\n", ":17: unknown table 'pools'; did you mean 'pool'?"),
    "unknown key": (
        "[agent.a2]\nlisten = 'tcp://h:1'\nlitsen = 1\n",
        ":19: unknown key 'litsen'; did you mean 'listen'?",
    ),
    "unknown medium": ("[pool.p]\nmedia = ['m2']\n", ":18: no medium 'm2'; known: m1"),
    "wrong type": ("[pool.p]\nmedia = ['m1']\ncopies = 'two'\n", ":19: copies: expected int, got str"),
    "wrong policy": (
        "[pool.p]\nmedia = ['m1']\npolicy = 'priorty'\n",
        ":19: policy: invalid value 'priorty'; did you mean 'priority'?",
    ),
    "missing": ("[agent.a2]\nhost = 'h'\n", ":17: 'listen' is missing"),
    "no url": ("[agent.a2]\nlisten = 'localhost'\n", ":18: listen: expected a URL such as tcp"),
    "same address": (
        "[agent.a2]\nlisten = 'tcp://127.0.0.1:7421'\n",
        ":18: tcp://127.0.0.1:7421 is the address of [agent.a1] too",
    ),
    "no port": ("[agent.a2]\nlisten = 'tcp://h:0'\n", ":18: tcp://h:0: a port from 1 to 65535"),
    "large port": ("[agent.a2]\nlisten = 'tcp://h:999944185'\n", ":18: tcp://h:999944185: a port from 1"),
    "same place": (
        "[medium.a]\nplugin = 'directory'\npath = 'x'\n[medium.b]\nplugin = 'directory'\npath = 'y/../x/'\n",
        ":22: 'y/../x/' is the place of [medium.a] too",
    ),
    "copies": (
        "[pool.p]\nmedia = ['m1']\ncopies = 2\n",
        ":19: copies = 2, but its media lie in 1 failure domain(s)",
    ),
    "min_copies": (
        "[pool.p]\nmedia = ['m1']\nmin_copies = 2\n",
        ":19: min_copies = 2 is more than copies = 1",
    ),
    "domain": ("[pool.p]\nmedia = ['m1']\ndomain = 'x'\n", ":19: no dedup domain 'x'; known: default"),
    "throttle": (
        "[medium.m2]\nplugin = 'memory'\nthrottle_bytes_per_s = 1000000\n",
        ":19: 64 MiB don't pass within deadline_s; it needs 68",
    ),
    "chunks": (
        "[domain.d]\nchunk_average_bytes = 1000000\n",
        ":18: chunk_min_bytes < chunk_average_bytes",
    ),
    "name": ("[medium.'a b']\nplugin = 'memory'\n", ":17: medium 'a b': a name has letters"),
    "no name": (
        "[medium]\nplugin = 'memory'\n",
        ":18: [medium] holds named tables: write [medium.NAME]",
    ),
    "value for table": ("[pool]\nx = 1\n", ":18: [pool] holds named tables"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named_with_its_line(home, what):
    text, expected = WRONG[what]
    found = problems(home(BASE + text))
    assert len(found) == 1, found
    assert found[0].startswith("staddle.toml" + expected)


def test_all_problems_are_reported_together(home):
    text = "".join(text for what, (text, _) in WRONG.items() if what in {"unknown table", "no url", "chunks"})
    assert len(problems(home(BASE + text + "[agent.a3]\nlisten = 3\nhots = 'x'\n"))) == 5


def test_text_that_is_no_toml_names_the_line(home):
    assert problems(home("[grid]\nid = \n"))[0].startswith("staddle.toml:2: not valid TOML")
    assert problems(home("[pool.p]\nmedia = ['m1']\n"))[0] == "staddle.toml:1: [grid] is missing"


def test_a_missing_home_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="staddle init"):
        load(str(tmp_path))


def test_options_of_a_medium_are_checked_by_its_plugin(home):
    registry = PluginRegistry()
    settings = load(home())
    config = settings.medium_config("m1", registry)
    assert config.path == os.path.join(settings.home, "media/m1")
    settings = load(
        home(BASE.replace("path =", "pth ="), m2='[medium.m2]\nplugin = "memory"\ncapacity_bytes = -1\n')
    )
    with pytest.raises(ConfigError) as caught:
        settings.medium_config("m1", registry)
    assert "staddle.toml:12: unknown key 'pth'; did you mean 'path'?" in str(caught.value)
    assert "staddle.toml:10: 'path' is missing" in str(caught.value)
    with pytest.raises(ConfigError, match=r"m2.toml:1: .*not negative"):
        settings.medium_config("m2", registry)


def test_fault_file_is_relative_to_home(home):
    settings = load(home(BASE.replace('path = "media/m1"', 'path = "media/m1"\nfault_file = "run/f.json"')))
    assert settings.medium["m1"].fault_file == os.path.join(settings.home, "run/f.json")


@pytest.mark.parametrize("agents", [1, 3])
def test_the_initial_text_is_a_valid_configuration(home, agents):
    urls = [f"tcp://127.0.0.1:{8000 + n}" for n in range(agents)]
    text = initial_text(
        grid_id=GRID, grid_name='a "grid" \\ ü', manager_url="tcp://127.0.0.1:7999", agent_urls=urls
    )
    settings = load(home(text))
    assert settings.grid.name == 'a "grid" \\ ü'
    assert len(settings.agent) == len(settings.medium) == agents
    assert settings.pool["main"].copies == min(2, agents)
    assert settings.pool["main"].min_copies == 1
    registry = PluginRegistry()
    for name in settings.medium:
        assert settings.medium_config(name, registry).path == home_paths(settings.home).medium(name)


def test_line_index_sees_through_strings_comments_and_quotes():
    text = 'a = 1\n# b = 2\nt = """\n[x]\nb = 3\n"""\n[y."q r"] # [z]\nc.d = 4\n  e = [\n 1,\n]\nf = 5\n'
    index = LineIndex(text)
    assert index.line(("a",)) == 1
    assert index.line(("y", "q r")) == 7
    assert index.line(("y", "q r", "c", "d")) == 8
    assert index.line(("y", "q r", "f")) == 12
    assert index.line(("y", "q r", "nowhere")) == 7
    assert index.line(("x",)) == 1


def test_one_path_on_two_servers_is_two_places(home):
    tables = "".join(
        f"[medium.{name}]\nplugin = 'smb'\npath = 'x'\nserver = '{name}'\n" for name in ("a", "b")
    )
    assert sorted(load(home(BASE + tables)).medium) == ["a", "b", "m1"]


def test_an_empty_path_is_no_place(home):
    settings = load(home(BASE + "[medium.e]\nplugin = 'directory'\npath = ''\n"))
    with pytest.raises(ConfigError, match="path must name a directory"):
        settings.medium_config("e", PluginRegistry())
