"""What `--help` says of each command, and that a slip in an option's name is told what was meant."""

import re

import click
import pytest

from staddle.cli import cli


def walk(command, words=()):
    """Every command with the words that lead to it, groups too."""
    context = click.Context(command)
    yield words, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from walk(command.get_command(context, name), (*words, name))


COMMANDS = dict(walk(cli))
IDS = [" ".join(words) or "staddle" for words in COMMANDS]


def test_all_commands_are_found():
    assert {("ls",), ("job", "watch"), ("catalog", "rebuild"), ("daemon", "agent")} <= set(COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=IDS)
def test_the_help_of_a_command_says_what_it_does_and_what_each_option_is(words, capsys):
    command = COMMANDS[words]
    assert command.help
    first = command.help.strip().partition("\n\n")[0]
    assert first.rstrip().endswith(".")
    assert first[0].isupper()
    for each in command.params:
        if isinstance(each, click.Option):
            assert each.help, each.name
            assert each.help.rstrip()[-1] in ".)", (each.name, each.help)
            assert each.is_flag or each.metavar or each.type is not click.STRING
        else:
            assert each.make_metavar(click.Context(command)) not in {"TEXT", "INTEGER"}
    said = cli.main([*words, "--help"], standalone_mode=False, prog_name="staddle")
    assert said == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(" ".join(["Usage: staddle", *words]))
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("words", [words for words in COMMANDS if words], ids=IDS[1:])
def test_a_slip_in_an_option_is_told_what_was_meant(words):
    options = [option for each in COMMANDS[words].params for option in each.opts if option.startswith("--")]
    for option in options:
        if len(option) < 5:
            continue
        wrong = option[:-1] + ("s" if option[-1] != "s" else "")
        if wrong in options:
            continue
        with pytest.raises(click.UsageError) as error:
            cli.main([*words, wrong], standalone_mode=False, prog_name="staddle")
        found = re.sub(r"\s+", " ", error.value.format_message())
        assert option in found, (wrong, found)
