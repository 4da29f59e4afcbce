"""The help of every verb: an example that runs that verb, and one name for one thing."""

import re
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from uspex_bridge.cli.main import command

#: Verbs that take no argument and need no example.
PLAIN = ("status", "stop", "reload")


def verbs(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from verbs(found, (*words, name))
        else:
            yield (*words, name), found


ALL = list(verbs(command))


@pytest.mark.parametrize("words", [words for words, _ in ALL if words[0] not in PLAIN], ids=" ".join)
def test_help_has_an_example_of_this_verb(words):
    shown = CliRunner().invoke(command, [*words, "--help"])
    assert shown.exit_code == 0
    text = shown.output.partition("Options:")[0].partition("\n")[2]
    assert re.search(rf"uspex-bridge {' '.join(words)}\s", text)


def test_a_verb_that_is_none_is_told_the_nearest():
    shown = CliRunner().invoke(command, ["hul", "results1"])
    assert (shown.exit_code, "did you mean 'hull'?" in shown.output) == (2, True)


def test_what_is_written_is_named_by_o_everywhere():
    outs = [p for _, found in ALL for p in found.params if "--out" in p.opts]
    assert outs
    assert all("-o" in p.opts for p in outs)
