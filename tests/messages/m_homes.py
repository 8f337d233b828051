"""Mistakes with the home and its configuration."""

import os
import re
import shutil

from staddle.config import home_paths

from .lab import NOBODY, fill, replace, small_disk
from .mistake import group

home = group("The home")
toml = group("The configuration")


@home(
    10,
    "there is no grid in 'DIR/nowhere'",
    "make one with `staddle init --home DIR`, or say where it is with --home or STADDLE_HOME",
    code="CONFIG",
)
def no_grid_in_the_home(lab):
    """`--home` names a directory without a grid."""
    return lab.run("ls", "--home", lab.path("nowhere"))


@home(
    10,
    "there is no grid in 'DIR/nowhere'",
    "make one with `staddle init --home DIR`, or say where it is with --home or STADDLE_HOME",
    code="CONFIG",
)
def staddle_home_is_wrong(lab):
    """STADDLE_HOME names a directory without a grid."""
    return lab.run("ls", env={"STADDLE_HOME": lab.path("nowhere")})


@home(
    10,
    "there is no grid in 'DIR/.staddle'",
    "make one with `staddle init --home DIR`, or say where it is with --home or STADDLE_HOME",
    code="CONFIG",
)
def no_grid_at_all(lab):
    """No grid was made or joined by this user."""
    return lab.run("ls")


@home(
    11, "HOME holds a grid already", "take another --home, or use this one with `staddle up`", code="LOCKED"
)
def init_of_a_grid(lab):
    """`init` where a grid is already."""
    return lab.run("init", "--home", lab.home)


@home(11, "DIR/source is not empty", "take an empty directory for --home", code="LOCKED")
def init_of_a_full_directory(lab):
    """`init` in a directory that holds something else."""
    return lab.run("init", "--home", lab.source)


@home(
    11,
    "DIR/source/letters/letter-0 is no directory",
    "take a new or empty directory for --home",
    code="LOCKED",
)
def init_of_a_file(lab):
    """`init` where a file is."""
    return lab.run("init", "--home", os.path.join(lab.source, "letters", "letter-0"))


@home(
    1,
    "DIR/closed/grid: permission denied",
    "check its owner and mode, or run as the user that may",
    root=True,
)
def init_without_permission(lab):
    """`init` where this user may not write."""
    where = lab.path("closed")
    os.makedirs(where, mode=0o755, exist_ok=True)
    return lab.nobody("init", "--home", os.path.join(where, "grid"), "--agents", "1")


@home(12, "the grid's home 'HOME' is closed to this user", "run as the user that runs the grid", root=True)
def the_home_of_another_user(lab):
    """The home belongs to another user."""
    return lab.nobody("ls", "--home", lab.home)


@home(
    1,
    "HOME/manager/oplog: permission denied",
    "check its owner and mode, or run as the user that may",
    root=True,
)
def a_directory_of_another_user(lab):
    """A directory of the home belongs to another user."""
    where = lab.new_home()
    for directory, _, files in os.walk(where):
        for name in [".", *files]:
            os.chown(os.path.join(directory, name), NOBODY, NOBODY)
    os.chown(os.path.join(where, "manager"), 0, 0)
    return lab.nobody("daemon", "manager", "--home", where, first=["daemon", "manager", "--home", lab.home])


@home(
    1,
    "DIR/disk-64k/grid: no space left on device",
    "make room, then the same command again",
    code="FAILED",
    root=True,
)
def no_room_for_a_home(lab):
    """`init` on a disk that is full."""
    with small_disk(lab, "64k") as where:
        return lab.run("init", "--home", os.path.join(where, "grid"))


@home(1, "DIR/LONG: file name too long", "name a shorter path", code="FAILED")
def a_home_with_too_long_a_name(lab):
    """`init` of a path that the file system can't hold."""
    return lab.run("init", "--home", lab.path("x" * 256))


@home(
    1,
    "manager did not start: no space left on device, not even for its log in DIR/disk-4m/home/log",
    "its log is DIR/disk-4m/home/log/manager.out",
    root=True,
)
def a_home_on_a_full_disk(lab):
    """`up` of a home on a disk that is full."""
    with small_disk(lab, "4m") as where:
        home = lab.new_home(home=os.path.join(where, "home"))
        fill(where)
        return lab.run("up", "--home", home, as_json=False)


@home(
    0,
    "a manager of this grid answers at tcp://127.0.0.1:PORT, but none was started from HOME",
    "is this a copy of another home? two must not be used at once",
)
def a_copy_of_a_home(lab):
    """`status` of a copy of a home, while the grid of the other one is up."""
    home = lab.new_home()
    shutil.copy(home_paths(lab.home).config_file, home_paths(home).config_file)
    shutil.rmtree(home_paths(home).pki)
    shutil.copytree(home_paths(lab.home).pki, home_paths(home).pki)
    return lab.run("status", "--home", home, as_json=False)


@home(10, "DIR/nowhere/staddle.toml does not exist", "make a grid with `staddle init`, or set STADDLE_HOME")
def a_daemon_without_a_home(lab):
    """`daemon manager` of a directory without a grid: it makes nothing there."""
    said = lab.run("daemon", "manager", "--home", lab.path("nowhere"), as_json=False)
    assert not os.path.exists(lab.path("nowhere"))
    return said


@home(
    13,
    "HOME/run/manager.json is damaged: manager runs, but which process it is can't be told",
    "end manager of this home by hand, then `staddle up`",
    code="CORRUPT",
)
def a_run_file_of_another_process(lab):
    """The file that names the manager's process names another one: no signal is sent to it."""
    path = os.path.join(home_paths(lab.home).run, "manager.json")
    with open(path, "rb") as file:
        kept = file.read()
    try:
        with open(path, "wb") as file:
            file.write(re.sub(rb'"pid":\d+', b'"pid":%d' % os.getpid(), kept))
        return lab.run("status", "--home", lab.home)
    finally:
        with open(path, "wb") as file:
            file.write(kept)


@toml(
    10,
    (
        "HOME/staddle.toml:6: not valid TOML: Expected ']' at the end of a table declaration (at line"
        " 6, column 6)"
    ),
    "correct it there",
    code="CONFIG",
)
def no_toml(lab):
    """staddle.toml is no TOML."""
    return lab.run("status", "--home", lab.new_home(replace("[grid]", "[grid")))


@toml(10, "HOME/staddle.toml:30: unknown key 'copys'; did you mean 'copies'?", "", code="CONFIG")
def an_unknown_key(lab):
    """A key that does not exist."""
    return lab.run("status", "--home", lab.new_home(replace("\ncopies =", "\ncopys =")))


@toml(10, "HOME/staddle.toml:33: unknown table 'pol'; did you mean 'pool'?", "", code="CONFIG")
def an_unknown_table(lab):
    """A table that does not exist."""
    return lab.run("status", "--home", lab.new_home(lambda text: text + "\n[pol.x]\n"))


@toml(10, "HOME/conf.d/more.toml:1: [pool.main] stands also at HOME/staddle.toml:28", "", code="CONFIG")
def a_table_twice(lab):
    """A table that stands in two files."""
    where = lab.new_home()
    with open(os.path.join(where, "conf.d", "more.toml"), "w", encoding="utf-8") as file:
        file.write('[pool.main]\nmedia = ["m1"]\n')
    return lab.run("status", "--home", where)


@toml(10, "HOME/staddle.toml:29: no medium 'mm1'; did you mean 'm1'?", "", code="CONFIG")
def no_such_medium_in_a_pool(lab):
    """A pool with a medium that does not exist."""
    return lab.run("status", "--home", lab.new_home(replace('media = ["m1"]', 'media = ["mm1"]')))


@toml(10, "HOME/staddle.toml:29: media: expected at least one entry", "correct it there", code="CONFIG")
def a_pool_without_media(lab):
    """A pool without media."""
    return lab.run("status", "--home", lab.new_home(replace('media = ["m1"]', "media = []")))


@toml(10, "HOME/staddle.toml:29: a medium is named twice", "correct it there", code="CONFIG")
def a_medium_twice_in_a_pool(lab):
    """A pool that names a medium twice."""
    return lab.run("status", "--home", lab.new_home(replace('media = ["m1"]', 'media = ["m1", "m1"]')))


@toml(
    10,
    "HOME/staddle.toml:30: copies = 2, but its media lie in 1 failure domain(s)",
    "correct it there",
    code="CONFIG",
)
def more_copies_than_failure_domains(lab):
    """More copies than failure domains."""
    return lab.run("status", "--home", lab.new_home(replace("\ncopies = 1", "\ncopies = 2")))


@toml(10, "HOME/staddle.toml:31: min_copies = 2 is more than copies = 1", "correct it there", code="CONFIG")
def more_min_copies_than_copies(lab):
    """`min_copies` above `copies`."""
    return lab.run("status", "--home", lab.new_home(replace("min_copies = 1", "min_copies = 2")))


@toml(10, "HOME/staddle.toml:32: segment_bytes: expected int, got str", "correct it there", code="CONFIG")
def a_size_that_is_none(lab):
    """A size as text."""
    change = replace("min_copies = 1", 'min_copies = 1\nsegment_bytes = "64M"')
    return lab.run("status", "--home", lab.new_home(change))


@toml(10, "HOME/staddle.toml:32: wait_busy_s: expected float >= 0.0", "correct it there", code="CONFIG")
def a_duration_that_is_none(lab):
    """A negative duration."""
    return lab.run(
        "status", "--home", lab.new_home(replace("min_copies = 1", "min_copies = 1\nwait_busy_s = -1"))
    )


@toml(10, "HOME/staddle.toml:10: 'listen' is missing", "correct it there", code="CONFIG")
def no_address(lab):
    """The manager's address is missing."""
    return lab.run("status", "--home", lab.new_home(replace("listen =", "# listen =", 1)))


@toml(
    10,
    "HOME/staddle.toml:11: listen: expected a URL such as tcp://127.0.0.1:PORT, got 'tcp:127.0.0.1:PORT'",
    "correct it there",
    code="CONFIG",
)
def an_address_that_is_none(lab):
    """An address that is none."""
    return lab.run("status", "--home", lab.new_home(replace("tcp://", "tcp:", 1)))


@toml(
    10,
    "HOME/staddle.toml:34: tcp://127.0.0.1:PORT is the address of [agent.a1] too",
    "correct it there",
    code="CONFIG",
)
def an_address_twice(lab):
    """Two agents with the same address."""

    def change(text):
        [url] = [line for line in text.splitlines() if line.startswith("listen")][1:]
        return f"{text}\n[agent.a2]\n{url}\n"

    return lab.run("status", "--home", lab.new_home(change))


@toml(
    10,
    "HOME/staddle.toml:7: id: expected 32 lower-case hex digits, got 'none'",
    "correct it there",
    code="CONFIG",
)
def a_grid_id_that_is_none(lab):
    """A damaged grid id."""
    return lab.run("status", "--home", lab.new_home(lambda text: re.sub('id = "[^"]*"', 'id = "none"', text)))


@toml(
    10,
    "HOME/staddle.toml:22: medium 'm 1': a name has letters, digits, '-', '_', at most 63",
    "correct it there",
    code="CONFIG",
)
def a_name_that_is_none(lab):
    """A medium's name with a space."""
    return lab.run(
        "status",
        "--home",
        lab.new_home(replace("[medium.m1]", '[medium."m 1"]\nplugin="directory"\n[medium.m1]')),
    )


@toml(10, "HOME/staddle.toml:25: unknown key 'moun'; did you mean 'mount'?", "", code="CONFIG")
def an_unknown_option_of_a_medium(lab):
    """An option that the medium's plugin does not have."""
    change = replace('path = "media/m1"', 'path = "media/m1"\nmoun = true')
    return lab.run("up", "--home", lab.new_home(change))


@toml(10, "HOME/staddle.toml:22: 'path' is missing", "correct it there", code="CONFIG")
def a_medium_without_its_path(lab):
    """A directory medium without its path."""
    return lab.run("up", "--home", lab.new_home(replace('path = "media/m1"', "")))


@toml(
    12, "HOME/staddle.toml can't be read: permission denied", "run as the user that runs the grid", root=True
)
def a_configuration_that_this_user_may_not_read(lab):
    """staddle.toml can't be read by this user."""
    where = lab.new_home()
    os.chmod(where, 0o755)
    return lab.nobody("status", "--home", where)


@toml(
    10, "HOME/staddle.toml:31: not valid TOML: copies stands there twice", "correct it there", code="CONFIG"
)
def a_key_that_stands_twice(lab):
    """A key stands twice in one table."""
    return lab.run("up", "--home", lab.new_home(replace("copies = 1", "copies = 1\ncopies = 1")))


@toml(10, "HOME/conf.d/pool.toml is a link to nothing", "correct it there", code="CONFIG")
def a_part_of_the_configuration_that_is_a_dangling_link(lab):
    """A link in conf.d points to nothing."""
    where = lab.new_home()
    os.symlink("pool.toml.old", os.path.join(where, "conf.d", "pool.toml"))
    return lab.run("status", "--home", where)


@toml(10, "HOME/conf.d can't be read: not a directory", "check the file and its disk", code="CONFIG")
def a_conf_d_that_is_a_file(lab):
    """conf.d is a file."""
    where = lab.new_home()
    os.rmdir(os.path.join(where, "conf.d"))
    with open(os.path.join(where, "conf.d"), "x", encoding="utf-8"):
        pass
    return lab.run("status", "--home", where)


@toml(
    10,
    "HOME/staddle.toml can't be read: not an ordinary file",
    "check the file and its disk",
    code="CONFIG",
    root=True,
)
def a_configuration_that_is_a_fifo(lab):
    """staddle.toml is a fifo, which would never end."""
    where = lab.new_home()
    path = os.path.join(where, "staddle.toml")
    os.unlink(path)
    os.mkfifo(path)
    return lab.run("status", "--home", where)
