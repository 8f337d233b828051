"""What is backed up, through a real grid: selections, streams and images, with their restores."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest

from staddle.demo.grid import STADDLE
from staddle.demo.grid import grid as real_grid

MIB = 1 << 20
SMALL_SEGMENTS = "segment_bytes = 2097152\n"


def small_segments(text):
    return "".join(
        line + (SMALL_SEGMENTS if line.startswith("[pool.") else "") for line in text.splitlines(True)
    )


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    with real_grid(str(tmp_path_factory.mktemp("sources") / "home"), 2, small_segments) as made:
        made.wait(lambda: all(each["state"] == "up" for each in made.json("status")["media"]), "media are up")
        yield made


def backup(grid, *words, feed=b"", codes=(0,), name="n"):
    """The summary, and all lines that came before it."""
    done = subprocess.run(
        [*STADDLE, "backup", "--name", name, "--json", *words],
        env=grid.environment,
        input=feed,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in codes, f"exit {done.returncode}: {done.stderr.decode(errors='replace')[-3000:]}"
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return (lines[-1] if lines else {}), lines[:-1], done.stderr.decode(errors="replace")


def restored(grid, number, target, *words):
    grid.run("restore", str(number), "--to", str(target), *words)
    return target


def tree_of(root):
    found = {}
    for directory, names, files in os.walk(root):
        for name in names:
            found[os.path.relpath(os.path.join(directory, name), root)] = None
        for name in files:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, root)] = file.read()
    return found


# --- selections -------------------------------------------------------------------------------------


def test_what_the_options_leave_out_is_not_in_the_backup(grid, tmp_path):
    source = tmp_path / "source"
    for path in (
        *("keep.txt", "x.o", "Thumbs.DB", "cache/CACHEDIR.TAG", "cache/junk", "skip/.nobackup", "skip/data"),
        *("logs/a.log", "logs/keep.log", "deep/a/b/tmp/x", "big"),
    ):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(b"content of " + path.encode())
    (source / "big").write_bytes(bytes(2000))
    (source / "cache/CACHEDIR.TAG").write_bytes(b"Signature: 8a477f597d28d172789f06886806bc55\n")
    patterns = tmp_path / "patterns"
    patterns.write_text("# logs\n*.log\n!keep.log\n$WHERE/deep/**/tmp\n")
    grid.environment["WHERE"] = str(source)
    summary, _, _ = backup(
        *(grid, str(source), "-e", "*.o", "--iexclude", "thumbs.db", "--exclude-file", str(patterns)),
        *("--exclude-caches", "--exclude-if-present", ".nobackup", "--exclude-larger-than", "1k"),
    )
    found = tree_of(restored(grid, summary["backup"], tmp_path / "to"))
    prefix = str(source).lstrip("/") + "/"
    assert {path[len(prefix) :] for path in found if path.startswith(prefix)} == {
        *("keep.txt", "cache", "cache/CACHEDIR.TAG", "skip", "skip/.nobackup", "logs", "logs/keep.log"),
        *("deep", "deep/a", "deep/a/b"),
    }  # fmt: skip


def test_listed_files_are_backed_up_with_the_directories_above_them(grid, tmp_path):
    source = tmp_path / "listed"
    for path in ("a/1", "a/2", "b/c/3", "b/no", "odd\nname"):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(path)
    os.chmod(source / "b", 0o700)
    raw = b"\0".join(os.fsencode(source) + each for each in (b"/b/c/3", b"/odd\nname", b"/gone"))
    globs = tmp_path / "list"
    globs.write_text(f"# numbered\n{source}/a/[12]\n")
    words = ("--files-from", str(globs), "--files-from0", "-")
    summary, lines, _ = backup(grid, *words, feed=raw, codes=(3,), name="listed")
    assert [line["message"] for line in lines if line["message_type"] == "warning"] == [
        "not backed up: no such file or directory"
    ]
    to = restored(grid, summary["backup"], tmp_path / "to")
    prefix = str(source).lstrip("/")
    found = tree_of(to / prefix)
    assert {path for path, data in found.items() if data is not None} == {"a/1", "a/2", "b/c/3", "odd\nname"}
    assert os.stat(to / prefix / "b").st_mode & 0o777 == 0o700
    again, _, _ = backup(grid, *words, feed=raw.replace(b"\0/gone", b""), codes=(0, 3), name="listed")
    assert again["bytes_read"] == 0, "unchanged files were read again"
    listing = grid.json("ls", str(summary["backup"]), str(source))
    assert {each["path"] for each in listing} == {f"{source}/{name}" for name in ("a", "b", "odd\nname")}


def test_the_grids_own_directories_are_left_out_without_a_warning(grid, tmp_path):
    home = grid.home
    summary, lines, _ = backup(grid, home, name="home")
    assert not [line for line in lines if line["message_type"] == "warning"]
    left_out = {os.path.basename(each["path"]) for each in summary["left_out"]}
    assert left_out == {"agents", "log", "manager", "media", "run"}
    found = tree_of(restored(grid, summary["backup"], tmp_path / "to") / home.lstrip("/"))
    assert "staddle.toml" in found
    assert "media" in found
    assert not [path for path in found if path.startswith(("media/", "agents/", "manager/"))]
    _, _, said = backup(grid, os.path.join(home, "media"), name="home", codes=(2,))
    assert "is this grid's own" in said


# --- streams ----------------------------------------------------------------------------------------


def test_a_stream_comes_back_as_it_went_in(grid, tmp_path, seed):
    data = random.Random(seed).randbytes(5 * MIB + 321)
    summary, _, _ = backup(grid, "--stdin", "dump.sql", feed=data, name="stream")
    assert (summary["state"], summary["files"], summary["bytes_read"]) == ("complete", 1, len(data))
    to = restored(grid, summary["backup"], tmp_path / "to")
    assert (to / "dump.sql").read_bytes() == data
    assert os.stat(to / "dump.sql").st_mode & 0o777 == 0o600
    [entry] = grid.json("ls", str(summary["backup"]))
    assert (entry["path"], entry["type"], entry["size_bytes"]) == ("/dump.sql", "stream", len(data))
    assert "/dump.sql (stream)" in grid.run("ls", str(summary["backup"])).stdout
    assert [each["type"] for each in grid.json("find", "dump.sql", "--backup", str(summary["backup"]))] == [
        "stream"
    ]
    again, _, _ = backup(grid, "--stdin", "dump.sql", feed=data, name="stream")
    assert again["bytes_stored"] < len(data) // 10, "the same data was stored again"


def test_an_empty_stream_is_an_empty_file(grid, tmp_path):
    summary, _, _ = backup(grid, "--stdin", "empty", name="empty")
    assert tree_of(restored(grid, summary["backup"], tmp_path / "to")) == {"empty": b""}


def test_the_output_of_a_command_is_backed_up_and_its_failure_leaves_no_complete_backup(grid, tmp_path):
    command = [sys.executable, "-c", f"import sys; sys.stdout.buffer.write(b'row\\n' * {MIB})"]
    words = ("--stdin", "out", "--stdin-from-command", "--")
    summary, _, _ = backup(grid, *words, *command, name="command")
    to = restored(grid, summary["backup"], tmp_path / "to")
    assert (to / "out").read_bytes() == b"row\n" * MIB
    command[-1] += "; sys.stderr.write('it broke\\n'); sys.exit(3)"
    _, _, said = backup(grid, *words, *command, name="command", codes=(1,))
    assert "it broke" in said
    assert "exit code 3, so the backup is not complete" in said
    assert "Traceback" not in said
    rows = grid.json("sql", "SELECT state FROM v_backups WHERE name = 'command' ORDER BY backup")["rows"]
    assert [row[0] for row in rows] == ["complete", "incomplete"]


def test_a_stream_that_waits_is_interrupted_at_once(grid):
    before = grid.job().job if grid.job() else 0
    running = subprocess.Popen(
        [*STADDLE, "backup", "--name", "waiting", "--stdin", "x"],
        env=grid.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        running.stdin.write(b"some, and then nothing")
        running.stdin.flush()
        job = grid.wait_job(lambda row: row.job > before, "the job began")
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
        said = running.stderr.read().decode()
    finally:
        running.kill()
        running.wait()
        running.stdin.close()
        running.stderr.close()
    assert "Traceback" not in said
    grid.wait_job(lambda row: row.job == job.job and row.state != "running", "the job ended")


# --- images -----------------------------------------------------------------------------------------


def test_an_image_comes_back_and_its_next_backup_stores_what_changed(grid, tmp_path, seed):
    rng, disk = random.Random(seed), tmp_path / "disk.img"
    size = 40 * MIB + 1001
    with open(disk, "wb") as file:
        file.write(rng.randbytes(6 * MIB))
        file.seek(30 * MIB + 4096)
        file.write(rng.randbytes(3 * MIB + 77))
        file.write(bytes(MIB))
        file.truncate(size)
    summary, _, _ = backup(grid, "--image", str(disk), name="image")
    assert (summary["state"], summary["files"]) == ("complete", 1)
    assert summary["bytes_stored"] < 11 * MIB, "zeros were stored"
    to = restored(grid, summary["backup"], tmp_path / "to") / str(disk).lstrip("/")
    assert to.read_bytes() == disk.read_bytes()
    [entry] = grid.json("ls", str(summary["backup"]), str(tmp_path))
    assert (entry["type"], entry["size_bytes"]) == ("image", size)
    with open(disk, "r+b") as file:
        file.seek(2 * MIB + 5)
        file.write(b"changed")
    again, _, _ = backup(grid, "--image", str(disk), name="image")
    assert again["bytes_read"] >= 9 * MIB, "an image is read as a whole"
    assert again["bytes_stored"] < MIB // 2, "more than the changed chunks was stored"
    to = restored(grid, again["backup"], tmp_path / "to2") / str(disk).lstrip("/")
    assert to.read_bytes() == disk.read_bytes()


@pytest.mark.loop
def test_a_block_device_is_backed_up_with_its_size(grid, tmp_path, seed):
    backing = tmp_path / "backing"
    backing.write_bytes(random.Random(seed).randbytes(3 * MIB + 512))
    made = subprocess.run(
        ["losetup", "--find", "--show", str(backing)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    device = made.stdout.strip()
    try:
        summary, _, _ = backup(grid, "--image", device, name="device")
    finally:
        subprocess.run(["losetup", "--detach", device], timeout=30, check=True)
    to = restored(grid, summary["backup"], tmp_path / "to") / device.lstrip("/")
    assert to.read_bytes() == backing.read_bytes()


# --- mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "missing argument"),
        (("--stdin", "a/b"), 2, "is no name for a stream"),
        (("--stdin", ".."), 2, "is no name for a stream"),
        (("--stdin", "x", "/tmp"), 2, "do not go together"),
        (("--stdin", "x", "--image", "/dev/null"), 2, "do not go together"),
        (("--stdin", "x", "--exclude", "y"), 2, "--exclude has no meaning with --stdin"),
        (("--stdin-from-command", "--", "true"), 2, "needs --stdin NAME"),
        (("--stdin", "x", "--stdin-from-command"), 2, "without a command"),
        (("--stdin", "x", "--stdin-from-command", "--", "no-such-program"), 2, "there is no program"),
        (("--image", "/dev/null"), 2, "neither a block device nor a file"),
        (("--image", "/no/such/disk"), 4, "no such file"),
        (("/tmp", "--exclude-larger-than", "much"), 2, "is no size"),
        (("/tmp", "--exclude-file", "/no/such/file"), 2, "cannot read the pattern file"),
        (("/tmp", "--exclude-if-present", "a/b"), 2, "has no name of a file"),
        (("/tmp", "--exclude", "[a"), 2, "has '[' without ']'"),
        (("--files-from", "/no/such/list"), 2, "cannot read the list of files"),
        (("--files-from0", "-"), 2, "missing argument"),
        (("/tmp", "--no-such-option"), 2, "no such option"),
    ],
)
def test_a_mistake_is_one_clear_message(grid, words, code, said):
    jobs = grid.job().job if grid.job() else 0
    _, _, err = backup(grid, *words, codes=(code,))
    error = json.loads(err)
    assert said in error["message"] + error["hint"]
    assert error["exit_code"] == code
    assert (grid.job().job if grid.job() else 0) == jobs, "a mistake has made a job"
