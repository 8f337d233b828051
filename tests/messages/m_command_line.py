"""Mistakes on the command line."""

from .mistake import group

command_line = group("The command line")


@command_line(2, "no such command 'bakup'", "did you mean 'backup'?", code="USAGE")
def a_command_that_does_not_exist(lab):
    """A command that does not exist."""
    return lab.run("bakup", lab.source)


@command_line(2, "no such command 'shwo'", "did you mean 'show'?", code="USAGE")
def a_subcommand_that_does_not_exist(lab):
    """A command of a noun that does not exist."""
    return lab.run("job", "shwo", "1")


@command_line(2, "no such option '--nam'", "did you mean one of: '--name', '--nodump'?", code="USAGE")
def an_option_that_does_not_exist(lab):
    """An option that does not exist."""
    return lab.run("backup", lab.source, "--nam", "letters", "--home", lab.home)


@command_line(2, "option '--home' requires an argument", "see `staddle --help`")
def an_option_without_its_value(lab):
    """An option without its value."""
    return lab.run("ls", "--home", as_json=False)


@command_line(2, "missing option '--name'", "see `staddle backup --help`", code="USAGE")
def a_backup_without_a_name(lab):
    """A backup without a name."""
    return lab.run("backup", lab.source, "--home", lab.home)


@command_line(2, "--name is empty", "name the backups of these paths, such as `documents`", code="USAGE")
def an_empty_name(lab):
    """An empty name."""
    return lab.run("backup", lab.source, "--name", "", "--home", lab.home)


@command_line(
    2, "invalid value for '--agents': 'two' is not a valid integer", "see `staddle init --help`", code="USAGE"
)
def no_number(lab):
    """A word where a number belongs."""
    return lab.run("init", "--home", lab.path("new"), "--agents", "two")


@command_line(2, "--agents 99: between 1 and 16", "more of them can be added to staddle.toml", code="USAGE")
def too_many_agents(lab):
    """More agents than `init` makes."""
    return lab.run("init", "--home", lab.path("new"), "--agents", "99")


@command_line(2, "--streams 99: between 1 and 16", "", code="USAGE")
def too_many_streams(lab):
    """More streams than a job has."""
    return lab.run("backup", lab.source, "--name", "letters", "--streams", "99", "--home", lab.home)


@command_line(
    2, "pattern '[a-' has '[' without ']'", "write \\[ for a bracket that stands for itself", code="USAGE"
)
def a_pattern_that_is_none(lab):
    """An exclude pattern with an open bracket."""
    return lab.run("backup", lab.source, "--name", "letters", "--exclude", "[a-", "--home", lab.home)


@command_line(
    2,
    "cannot read the pattern file 'DIR/no-patterns': no such file or directory",
    "name a file that exists and can be read",
    code="USAGE",
)
def an_exclude_file_that_is_not_there(lab):
    """A file of patterns that does not exist."""
    words = ["--exclude-file", lab.path("no-patterns"), "--home", lab.home]
    return lab.run("backup", lab.source, "--name", "letters", *words)


@command_line(2, "'letters' is no backup", "give its number (`staddle ls`), or `latest`", code="USAGE")
def no_backup_number(lab):
    """A word where a backup's number belongs."""
    return lab.run("restore", "letters", "--to", lab.path("new"), "--home", lab.home)


@command_line(2, "--name goes with `latest`, not with a number", "leave one of them out", code="USAGE")
def a_number_and_a_name(lab):
    """A backup's number and `--name` at once."""
    words = ["--name", "letters", "--to", lab.path("new"), "--home", lab.home]
    return lab.run("restore", "1", *words)


@command_line(
    2,
    "name the backups to be removed, or give --keep-last with --name",
    "`staddle ls` shows them",
    code="USAGE",
)
def prune_without_a_rule(lab):
    """`prune` without backups or a rule."""
    return lab.run("prune", "--home", lab.home)


@command_line(
    2,
    "invalid value for '--keep-last': 0 is not in the range x>=1",
    "see `staddle prune --help`",
    code="USAGE",
)
def prune_keeps_nothing(lab):
    """`prune --keep-last 0`."""
    return lab.run("prune", "--keep-last", "0", "--name", "letters", "--home", lab.home)


@command_line(2, "nothing was removed", "add --yes to remove it")
def prune_without_yes(lab):
    """`prune` without `--yes`: it only shows what it would do."""
    return lab.run("prune", "1", "--home", lab.home, as_json=False)


@command_line(
    2,
    "invalid value for '--valid': -1.0 is not in the range 1<=x<=2592000",
    "see `staddle client token --help`",
    code="USAGE",
)
def a_token_that_is_never_valid(lab):
    """A token that would never be valid."""
    return lab.run("client", "token", "laptop", "--valid=-1", "--home", lab.home)


@command_line(
    2,
    "'my laptop' is no name for a client",
    "take 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit",
    code="USAGE",
)
def a_client_name_that_is_none(lab):
    """A client's name with a space."""
    return lab.run("client", "token", "my laptop", "--home", lab.home)


@command_line(
    4, "--source DIR/nowhere: no such directory", "name a tree with at least 16 MiB", code="NOT_FOUND"
)
def a_demo_of_nothing(lab):
    """`demo` with a tree that does not exist."""
    return lab.run("demo", "--source", lab.path("nowhere"))


@command_line(2, "invalid value for '--home': it is empty", "see `staddle prune --help`", code="USAGE")
def an_empty_home(lab):
    """`--home` with a variable that is not set."""
    return lab.run("prune", "1", "--home", "", "--yes")


@command_line(
    2,
    "a PATH is empty, or holds NUL",
    "name a path; `.` is the directory you are in",
    code="USAGE",
)
def an_empty_path(lab):
    """A path to back up that is empty: a variable that is not set."""
    return lab.run("backup", "", "--name", "letters", "--home", lab.home)


@command_line(2, "invalid value for '--to': it is empty", "see `staddle restore --help`", code="USAGE")
def an_empty_target(lab):
    """A target of a restore that is empty."""
    return lab.run("restore", "1", "--to", "", "--home", lab.home)


@command_line(
    2,
    "--name 'LONG'… is no name for a backup",
    "take at most 256 characters, none of them a control",
    code="USAGE",
)
def a_name_that_is_too_long(lab):
    """A backup's name that is too long."""
    return lab.run("backup", lab.source, "--name", "x" * 300, "--home", lab.home)


@command_line(
    2,
    "--name 'two\\nlines' is no name for a backup",
    "take at most 256 characters, none of them a control",
    code="USAGE",
)
def a_name_of_two_lines(lab):
    """A backup's name with a line break."""
    return lab.run("backup", lab.source, "--name", "two\nlines", "--home", lab.home)


@command_line(
    2,
    "invalid value for 'JOB': '99999999999999999999' is no number from 1 up",
    "see `staddle job show --help`",
    code="USAGE",
)
def a_number_that_nothing_has(lab):
    """A job's number that is too large to be one."""
    return lab.run("job", "show", "9" * 20, "--home", lab.home)


@command_line(
    2,
    "cannot read the list of files 'DIR/no-list': no such file or directory",
    "name a file that exists and can be read",
    code="USAGE",
)
def a_list_that_is_not_there(lab):
    """`--files-from` of a file that does not exist."""
    return lab.run("backup", "--files-from", lab.path("no-list"), "--name", "letters", "--home", lab.home)


@command_line(
    2, "pattern 'a/[b' has '[' without ']'", "write \\[ for a bracket that stands for itself", code="USAGE"
)
def a_pattern_of_a_restore_that_is_none(lab):
    """A pattern of `restore --include` with an open bracket."""
    return lab.run("restore", "1", "--include", "a/[b", "--to", lab.path("new"), "--home", lab.home)


@command_line(
    2,
    "give one of --to, --in-place and --onto",
    "`--to DIR` restores below a directory, `--in-place` to the original paths",
    code="USAGE",
)
def a_restore_to_nowhere(lab):
    """A restore that is not told where to."""
    return lab.run("restore", "1", "--home", lab.home)


@command_line(
    2,
    "--delete removes files that the backup has not",
    "look with --dry-run first, then confirm with --yes",
    code="USAGE",
)
def a_delete_without_yes(lab):
    """`restore --delete` without `--yes`."""
    return lab.run("restore", "1", "--delete", "--to", lab.path("new"), "--home", lab.home)
