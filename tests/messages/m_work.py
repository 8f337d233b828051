"""Mistakes in the work of every day: backups, restores, jobs, queries."""

import os

from .mistake import group

backup = group("Backing up")
restore = group("Restoring and looking")
work = group("Jobs, catalog and plugins")


@backup(
    4, "cannot back up 'DIR/nowhere': no such file or directory", "name a path that exists", code="NOT_FOUND"
)
def a_path_that_does_not_exist(lab):
    """A path to back up that does not exist."""
    return lab.run("backup", lab.path("nowhere"), "--name", "letters", "--home", lab.home)


@backup(
    4, "cannot back up 'DIR/gone': no such file or directory", "name a path that exists", code="NOT_FOUND"
)
def one_of_two_paths_is_gone(lab):
    """Of several paths one does not exist, or no longer: nothing is backed up."""
    return lab.run("backup", lab.source, lab.path("gone"), "--name", "letters", "--home", lab.home)


@backup(4, "there is no pool 'mian'", "pools: main", code="NOT_FOUND")
def an_unknown_pool(lab):
    """A pool that does not exist."""
    return lab.run("backup", lab.source, "--name", "letters", "--pool", "mian", "--home", lab.home)


def _renamed(lab):
    """A used grid whose configuration names its pool anew."""
    home = lab.new_home(lambda text: text.replace("[pool.main]", "[pool.other]"), used=True)
    lab.must("up", "--home", home)
    return home


@backup(4, "there is no pool 'main'", "pools: other", code="NOT_FOUND")
def a_pool_that_the_configuration_no_longer_names(lab):
    """A pool that old backups lie in, and that the configuration no longer names."""
    home = lab.once("renamed", lambda: _renamed(lab))
    return lab.run("backup", lab.source, "--name", "letters", "--pool", "main", "--home", home)


def _without(lab):
    home = lab.new_home(lambda text: text.partition("[pool.main]")[0], used=True)
    lab.must("up", "--home", home)
    return home


@backup(4, "the configuration has no pool", "add one: [pool.main] with its media", code="NOT_FOUND")
def no_pool_at_all(lab):
    """A configuration without any pool."""
    home = lab.once("without", lambda: _without(lab))
    return lab.run("backup", lab.source, "--name", "letters", "--home", home)


@backup(
    5,
    "the manager does not answer: cannot reach tcp://127.0.0.1:PORT: connection refused",
    "start the grid with `staddle up`, or see `staddle status`",
    code="PATH_LOST",
)
def the_manager_is_down(lab):
    """The manager is down."""
    return lab.run("backup", lab.source, "--name", "letters", "--home", lab.once("down", lab.new_home))


@restore(4, "there is no backup 99", "`staddle ls` shows them", code="NOT_FOUND")
def an_unknown_backup(lab):
    """A backup that does not exist."""
    return lab.run("restore", "99", "--to", lab.path("new"), "--home", lab.home)


@restore(
    4, "there is no finished backup of the name 'photos'", "`staddle ls` shows all of them", code="NOT_FOUND"
)
def no_backup_of_that_name(lab):
    """No finished backup of that name."""
    return lab.run("restore", "latest", "--name", "photos", "--to", lab.path("new"), "--home", lab.home)


@restore(4, "backup 1 has no '/nowhere'", "`staddle ls 1` shows it", code="NOT_FOUND")
def no_such_file_in_the_backup(lab):
    """A path that the backup does not have."""
    return lab.run("restore", "1", "/nowhere", "--to", lab.path("new"), "--home", lab.home)


@restore(
    4,
    "backup 1 has nothing that --include '*.jpeg', 'photos' takes",
    "`staddle ls 1` shows it",
    code="NOT_FOUND",
)
def patterns_that_take_nothing(lab):
    """Patterns of `restore --include` that nothing in the backup matches."""
    words = ("--include", "*.jpeg", "--include", "photos", "--to", lab.path("nothing"))
    return lab.run("restore", "1", *words, "--home", lab.home)


@restore(
    1,
    "cannot restore to 'DIR/source/letters/letter-0': not a directory",
    "name a directory you can write",
    code="FAILED",
)
def a_restore_to_a_file(lab):
    """The target of a restore is a file."""
    target = os.path.join(lab.source, "letters", "letter-0")
    return lab.run("restore", "1", "--to", target, "--home", lab.home)


@restore(
    1,
    "cannot restore to 'DIR/source/letters/letter-0/below': not a directory",
    "name a directory you can write",
    code="FAILED",
)
def a_restore_into_nothing(lab):
    """The target of a restore can't be made."""
    target = os.path.join(lab.source, "letters", "letter-0", "below")
    return lab.run("restore", "1", "--to", target, "--home", lab.home)


def read_only(lab):
    """A directory on a file system that is mounted read-only."""

    def mounted():
        where = lab.path("readonly")
        os.makedirs(where)
        lab.mount(where, "size=1m,ro")
        return where

    return lab.once("read-only", mounted)


@restore(
    1,
    "cannot restore to 'DIR/readonly/new': read-only file system",
    "name a directory you can write",
    code="FAILED",
    root=True,
)
def a_restore_to_a_read_only_disk(lab):
    """A new target of a restore on a file system that is read-only."""
    return lab.run("restore", "1", "--to", os.path.join(read_only(lab), "new"), "--home", lab.home)


@restore(
    1,
    "cannot go on restoring to 'DIR/readonly': read-only file system",
    "mount it for writing, or restore to another directory",
    code="FAILED",
    root=True,
)
def a_restore_into_a_read_only_directory(lab):
    """The target of a restore is there, and read-only."""
    return lab.run("restore", "1", "--to", read_only(lab), "--home", lab.home)


@restore(
    2, "'99999999999999999999' is no backup", "give its number (`staddle ls`), or `latest`", code="USAGE"
)
def a_backup_number_that_nothing_has(lab):
    """A backup's number that is too large to be one."""
    return lab.run("restore", "9" * 20, "--to", lab.path("new"), "--home", lab.home)


@restore(4, "there is no backup 99", "`staddle ls` shows them", code="NOT_FOUND")
def ls_of_an_unknown_backup(lab):
    """`ls` of a backup that does not exist."""
    return lab.run("ls", "99", "--home", lab.home)


@restore(4, "backup 1 has no directory /nowhere", "staddle ls 1 shows its top", code="NOT_FOUND")
def ls_of_no_directory(lab):
    """`ls` of a directory that the backup does not have."""
    return lab.run("ls", "1", "/nowhere", "--home", lab.home)


@restore(4, "there is no backup 99", "`staddle ls` shows them", code="NOT_FOUND")
def find_in_an_unknown_backup(lab):
    """`find` in a backup that does not exist."""
    return lab.run("find", "letter*", "--backup", "99", "--home", lab.home)


@restore(4, "there is no backup 99", "`staddle ls` shows them", code="NOT_FOUND")
def verify_of_an_unknown_backup(lab):
    """`verify` of a backup that does not exist."""
    return lab.run("verify", "99", "--home", lab.home)


@work(4, "there is no job 99", "`staddle job list` shows them", code="NOT_FOUND")
def an_unknown_job(lab):
    """A job that does not exist."""
    return lab.run("job", "show", "99", "--home", lab.home)


@work(4, "there is no job 99", "`staddle job list` shows them", code="NOT_FOUND")
def cancel_of_an_unknown_job(lab):
    """Cancelling a job that does not exist."""
    return lab.run("job", "cancel", "99", "--home", lab.home)


@work(1, "job 1 has ended before, it is complete", "`staddle job list` shows what runs", code="FAILED")
def cancel_of_a_finished_job(lab):
    """Cancelling a job that has ended."""
    return lab.run("job", "cancel", "1", "--home", lab.home)


@work(4, "no job is running", "`staddle job list` shows those that have run", code="NOT_FOUND")
def no_job_to_watch(lab):
    """`job watch` when no job runs."""
    return lab.run("job", "watch", "--home", lab.home)


@work(4, "there is no backup 99", "`staddle ls` shows them", code="NOT_FOUND")
def prune_of_an_unknown_backup(lab):
    """`prune` of a backup that does not exist."""
    return lab.run("prune", "99", "--yes", "--home", lab.home)


@work(4, "there is no backup of the name 'photos'", "`staddle ls` shows them", code="NOT_FOUND")
def prune_of_an_unknown_name(lab):
    """`prune` of a name without backups."""
    return lab.run("prune", "--keep-last", "1", "--name", "photos", "--yes", "--home", lab.home)


@work(
    2, "SQL: the query is empty", "the catalog takes one SELECT over the views of docs/sql.md", code="USAGE"
)
def an_empty_query(lab):
    """An empty query."""
    return lab.run("sql", "", "--home", lab.home)


@work(
    2,
    'SQL: Parser Error: syntax error at or near "SELEC"',
    "the catalog takes one SELECT over the views of docs/sql.md",
    code="USAGE",
)
def a_query_that_is_no_sql(lab):
    """A query that is no SQL."""
    return lab.run("sql", "SELEC 1", "--home", lab.home)


@work(
    2,
    'SQL: Catalog Error: Table with name v_backup does not exist! Did you mean "v_backups"?',
    "the catalog takes one SELECT over the views of docs/sql.md",
    code="USAGE",
)
def a_query_of_an_unknown_table(lab):
    """A query of a table that does not exist."""
    return lab.run("sql", "SELECT * FROM v_backup", "--home", lab.home)


@work(2, "SQL: DELETE is refused", "the catalog takes one SELECT over the views of docs/sql.md", code="USAGE")
def a_query_that_writes(lab):
    """A query that would change the catalog."""
    return lab.run("sql", "DELETE FROM backups", "--home", lab.home)


@work(
    2,
    "SQL: SELECT, SELECT is refused",
    "the catalog takes one SELECT over the views of docs/sql.md",
    code="USAGE",
)
def two_queries(lab):
    """Two queries at once."""
    return lab.run("sql", "SELECT 1; SELECT 2", "--home", lab.home)


@work(
    2,
    "SQL: the table function read_csv is refused",
    "the catalog takes one SELECT over the views of docs/sql.md",
    code="USAGE",
)
def a_query_that_reads_files(lab):
    """A query that reads files of the manager's host."""
    return lab.run("sql", "SELECT * FROM read_csv('/etc/passwd')", "--home", lab.home)


@work(
    1,
    "cannot write the snapshot DIR/nowhere/snapshot: no such file or directory",
    "name a file in a directory that the manager's user may write, with room for it",
    code="FAILED",
)
def a_snapshot_into_no_directory(lab):
    """A catalog snapshot into a directory that does not exist."""
    return lab.run("catalog", "snapshot", lab.path("nowhere", "snapshot"), "--home", lab.home)


@work(
    11,
    "DIR/source/letters/letter-0 exists already",
    "name a new file: a snapshot replaces nothing",
    code="LOCKED",
)
def a_snapshot_onto_a_file(lab):
    """A catalog snapshot onto a file that exists."""
    return lab.run("catalog", "snapshot", os.path.join(lab.source, "letters", "letter-0"), "--home", lab.home)


@work(
    2,
    (
        "DIR/source/letters/letter-0 and DIR/source/letters/letter-0 can't be compared: one of them "
        "is no catalog of this release"
    ),
    "name two files written by `staddle catalog snapshot`",
    code="USAGE",
)
def a_diff_of_no_catalog(lab):
    """A comparison of files that are no catalogs."""
    letter = os.path.join(lab.source, "letters", "letter-0")
    return lab.run("catalog", "diff", letter, letter)


@work(
    11,
    "the manager's log knows backups already: nothing is rebuilt",
    "only a manager whose directory was lost needs it; `staddle catalog verify` checks",
    code="LOCKED",
)
def a_rebuild_that_is_not_needed(lab):
    """A rebuild of a manager that has its log."""
    return lab.run("catalog", "rebuild", "--home", lab.home)
