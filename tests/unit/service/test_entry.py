"""Where a call runs, and what it must not load before that is clear."""

import json
import os
import subprocess
import sys

import pytest

from uspex_bridge.cli import entry

FORMS = [
    ([], (".", {})),
    (["CalcFold1"], ("CalcFold1", {})),
    (["--threads", "2", "CalcFold1", "--config=a=b.toml"], ("CalcFold1", {"--threads": "2", "--config": "a=b.toml"})),
    (["--server", "off", "--", "--odd"], ("--odd", {"--server": "off"})),
    (["-h"], None),
    (["x", "--help"], None),
    (["--version"], None),
    (["-q"], None),
    (["one", "two"], None),
    (["--config"], None),
    (["--server", "perhaps"], None),
]


@pytest.mark.parametrize(("argv", "expected"), FORMS)
def test_arguments_are_read_as_far_as_they_matter(argv, expected):
    assert entry.read(argv) == expected


@pytest.mark.parametrize("argv", [argv for argv, expected in FORMS if expected and "--odd" not in argv])
def test_the_command_reads_the_same_folder(argv):
    from uspex_bridge.cli.vasp import command

    params = command.make_context("uspex-bridge-vasp", list(argv)).params
    assert str(params["folder"]) == entry.read(argv)[0]


def test_every_option_of_the_executables_takes_a_value():
    """What :func:`entry.read` takes for granted."""
    import click

    from uspex_bridge.cli import external, vasp

    for command in (vasp.command, external.command):
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in ("version", "help"):
                assert not option.is_flag, option.name
                assert not option.multiple
                assert all(name.startswith("--") for name in option.opts)


def test_the_client_loads_next_to_nothing():
    code = (
        "import sys; before = set(sys.modules)\nimport uspex_bridge.cli.entry\nprint(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(_root())!r})\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(json.loads(done.stdout.replace("'", '"')))
    ours = {name for name in loaded if name.startswith("uspex_bridge")}
    assert ours == {
        "uspex_bridge.base",
        "uspex_bridge.base.caller",
        "uspex_bridge.base.lines",
        "uspex_bridge.base.private",
        "uspex_bridge.base.version",
        "uspex_bridge",
        "uspex_bridge.cli",
        "uspex_bridge.cli.entry",
        "uspex_bridge.service",
        "uspex_bridge.service.client",
        "uspex_bridge.service.wire",
    }
    for heavy in ("pathlib", "click", "numpy", "tomllib", "dataclasses", "asyncio", "logging", "inspect", "contextlib"):
        assert heavy not in loaded


def _root():
    import uspex_bridge

    return os.path.dirname(os.path.dirname(uspex_bridge.__file__))
