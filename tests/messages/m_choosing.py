"""Mistakes in what is to be read, and in where a restore goes: told before anything is read or written."""

import os

from .m_command_line import command_line

LEAVE_OUT = "leave out --in-place, --delete, --dry-run, --include, --exclude, --overwrite and maps of owners"


def letter(lab):
    """A file of the first backup."""
    return os.path.join(lab.source, "letters", "letter-0")


# --- backup -----------------------------------------------------------------------------------------


@command_line(2, "--pool is empty", "leave it out for the default pool", code="USAGE")
def an_empty_name_of_a_pool(lab):
    """`backup --pool ""`, such as by a variable that is not set."""
    return lab.run("backup", "--pool", "", lab.source, "--name", "letters", "--home", lab.home)


@command_line(
    2,
    "--stdin 'a/b' is no name for a stream",
    "give a file name without '/', of at most 255 bytes, such as --stdin dump.sql",
    code="USAGE",
)
def a_stream_with_a_path_for_a_name(lab):
    """`backup --stdin` with a path for a name."""
    return lab.run("backup", "--stdin", "a/b", "--name", "dump", "--home", lab.home)


@command_line(
    2,
    "--stdin-from-command needs --stdin NAME",
    "say what the output is to be called: --stdin dump.sql --stdin-from-command -- COMMAND",
    code="USAGE",
)
def a_command_without_a_name(lab):
    """`backup --stdin-from-command` without `--stdin NAME`."""
    return lab.run("backup", "--stdin-from-command", "--name", "dump", "--home", lab.home)


@command_line(
    2, "--stdin-from-command without a command", "write it behind --, with its arguments", code="USAGE"
)
def no_command_after_all(lab):
    """`backup --stdin-from-command` without a command."""
    words = ("--stdin", "dump", "--stdin-from-command")
    return lab.run("backup", *words, "--name", "dump", "--home", lab.home)


@command_line(
    2,
    "there is no program 'pg_dunp' to run",
    "after -- comes a program and its arguments",
    code="USAGE",
)
def a_program_that_is_not_there(lab):
    """`backup --stdin-from-command` of a program that is not installed."""
    words = ("--stdin", "dump", "--stdin-from-command")
    return lab.run("backup", *words, "--name", "dump", "--home", lab.home, "pg_dunp")


@command_line(
    2,
    "--stdin and PATH 'DIR/source' do not go together",
    "make two backups of it; a command comes with --stdin-from-command",
    code="USAGE",
)
def a_stream_and_a_path(lab):
    """`backup --stdin` and a path at once."""
    return lab.run("backup", lab.source, "--stdin", "dump", "--name", "dump", "--home", lab.home)


@command_line(2, "--exclude has no meaning with --stdin", "leave it out", code="USAGE")
def a_pattern_for_a_stream(lab):
    """`backup --stdin` with an option that chooses files."""
    return lab.run("backup", "--stdin", "dump", "--exclude", "a", "--name", "dump", "--home", lab.home)


@command_line(
    4,
    "cannot back up the image 'DIR/no-disk': no such file or directory",
    "name a device or a file that exists",
    code="NOT_FOUND",
)
def an_image_that_is_not_there(lab):
    """`backup --image` of a device that does not exist."""
    return lab.run("backup", "--image", lab.path("no-disk"), "--name", "disk", "--home", lab.home)


@command_line(
    2,
    "--image 'DIR/source' is neither a block device nor a file",
    "directories are backed up without --image, pipes with --stdin",
    code="USAGE",
)
def an_image_of_a_directory(lab):
    """`backup --image` of a directory."""
    return lab.run("backup", "--image", lab.source, "--name", "disk", "--home", lab.home)


@command_line(
    2,
    "--exclude-larger-than 'big' is no size",
    "give bytes, or a number with k, M, G or T: 500M",
    code="USAGE",
)
def a_size_of_files_that_is_none(lab):
    """`--exclude-larger-than` with a word."""
    words = ("--exclude-larger-than", "big")
    return lab.run("backup", lab.source, *words, "--name", "letters", "--home", lab.home)


@command_line(
    2,
    "--exclude-if-present 'a/b' has no name of a file",
    "give a name without '/', and after a colon how the file must begin",
    code="USAGE",
)
def a_mark_with_a_path(lab):
    """`--exclude-if-present` with a path."""
    words = ("--exclude-if-present", "a/b")
    return lab.run("backup", lab.source, *words, "--name", "letters", "--home", lab.home)


@command_line(
    2,
    "DIR/patterns:2: the variable $NO_PLACE is not set",
    "set it, or write $$ for a dollar sign",
    code="USAGE",
)
def a_variable_that_is_not_set(lab):
    """A variable in a file of patterns that is not set."""
    with open(lab.path("patterns"), "w", encoding="utf-8") as file:
        file.write("# caches\n$NO_PLACE/cache\n")
    words = ("--exclude-file", lab.path("patterns"))
    return lab.run("backup", lab.source, *words, "--name", "letters", "--home", lab.home)


@command_line(
    2,
    "'HOME/media' is this grid's own: a backup of it would be part of itself",
    "copies on other media are made by the pool (`copies`), not by backups of media",
    code="USAGE",
)
def a_backup_of_the_grids_own(lab):
    """A backup of the grid's own media."""
    media = os.path.join(lab.home, "media")
    return lab.run("backup", media, "--name", "media", "--home", lab.home)


# --- restore ----------------------------------------------------------------------------------------


@command_line(
    2,
    "'HOME/media/m1' is inside a grid's own directory 'HOME/media'",
    "name a place elsewhere",
    code="USAGE",
)
def a_restore_into_the_grid(lab):
    """A restore into a directory of the grid's own."""
    return lab.run("restore", "1", "--to", os.path.join(lab.home, "media", "m1"), "--home", lab.home)


@command_line(
    2,
    "'HOME/media/m1/staddle-volume.txt' is inside a grid's own directory 'HOME/media'",
    "name a place elsewhere",
    code="USAGE",
)
def a_restore_onto_a_label(lab):
    """`restore --onto` a file of the grid's own."""
    label = os.path.join(lab.home, "media", "m1", "staddle-volume.txt")
    return lab.run("restore", "1", letter(lab), "--onto", label, "--home", lab.home)


@command_line(
    2,
    "the content of one file goes to one place, over what is there: other options of a restore do not fit",
    LEAVE_OUT,
    code="USAGE",
)
def onto_a_file_that_is_to_stay(lab):
    """`restore --onto` with `--overwrite never`, or another option that only a tree has."""
    words = ("--onto", letter(lab), "--overwrite", "never")
    return lab.run("restore", "1", letter(lab), *words, "--home", lab.home)


@command_line(2, "invalid value for '--to': it is given twice", "see `staddle restore --help`", code="USAGE")
def two_targets(lab):
    """A restore with two targets."""
    words = ("--to", lab.path("new"), "--to", lab.path("newer"))
    return lab.run("restore", "1", *words, "--home", lab.home)


@command_line(2, "--owner-map 'alice' is no FROM:TO", "for example --owner-map alice:bob", code="USAGE")
def a_map_that_leads_nowhere(lab):
    """`--owner-map` without a second name."""
    words = ("--owner-map", "alice", "--to", lab.path("new"))
    return lab.run("restore", "1", *words, "--home", lab.home)


@command_line(
    2,
    "--owner-map 'alice:nobody-here': this system has no 'nobody-here'",
    "create it first, or give its number",
    code="USAGE",
)
def a_map_to_an_unknown_user(lab):
    """`--owner-map` to a user that does not exist."""
    words = ("--owner-map", "alice:nobody-here", "--to", lab.path("new"))
    return lab.run("restore", "1", *words, "--home", lab.home)


@command_line(2, "--owner-map '1:3': '1' stands there twice", "leave one of them out", code="USAGE")
def a_map_with_two_ends(lab):
    """`--owner-map` twice for one user."""
    words = ("--owner-map", "1:2", "--owner-map", "1:3", "--to", lab.path("new"))
    return lab.run("restore", "1", *words, "--home", lab.home)
