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


OPTIONS = [(words, p) for words, found in ALL for p in found.params if isinstance(p, click.Option)]
#: Of each option that several verbs have: its short form, and the names that nothing else may take.
SHORT = {"--out": "-o", "--pressure": "-p", "--model": "-m"}
#: First words of a help that is no noun phrase.
NO_NOUNS = {
    "also",
    "at",
    "begin",
    "bring",
    "do",
    "else",
    "for",
    "how",
    "keep",
    "leave",
    "let",
    "only",
    "or",
    "print",
    "put",
    "read",
    "ring",
    "say",
    "seconds",
    "show",
    "take",
    "the",
    "what",
    "where",
    "which",
    "who",
    "with",
    "without",
    "write",
}


@pytest.mark.parametrize(("name", "short"), SHORT.items())
def test_one_name_and_one_short_form_for_one_thing(name, short):
    mine = [(words, p) for words, p in OPTIONS if name in p.opts or short in p.opts]
    assert mine
    for words, p in mine:
        assert {name, short} <= set(p.opts), words


#: Options that several verbs have, and what the help of each says wherever it stands.
MEANINGS = {
    "--pressure": r"^Pressures?\b.*GPa",
    "--model": r"^Models?\b.*(calculator|KIND:WEIGHTS)",
    "--out": r"^(File|Folder|Figure|HTML file)\b",
    "--json": r"^JSON\b",
    "--csv": r"^CSV file for ",
    "--within": r"^Largest distance above the hull, eV/atom",
    "--near": r"^Largest distance above the old hull, eV/atom",
    "--symprec": r"^Tolerance of space groups\b.*Å",
    "--threads": r"^Number of CPU threads",
    "--workers": r"^Number of (processes|structures at once)",
    "--dask": r"^Address or file of a Dask scheduler",
    "--device": r"^Device: auto, cpu, cuda or cuda:N",
    "--config": r"^Settings file",
    "--settings": r"^TOML file with the differences from the template",
    "--protocol": r"^(Named protocol|Protocol)\b.*TOML file",
    "--stages": r"^Stages of the protocol",
    "--socket": r"^Socket of the service",
    "--seed": r"^Seed of the random numbers",
    "--time-limit": r"^Time limit\b.*\bs\b",
    "--reference": r"^Further structures with energies",
    "--components": r"^Corners of the hull",
    "--generation": r"^(Last g|G)eneration of the ",
    "--generations": r"^(Largest n|N)umber of generations",
    "--pv": r"^Threshold of \|ΔPV\|.*eV/atom",
    "--retry": r"^Second (evaluation|calculation) of failed structures",
    "--resume": r"^Continuation",
}


@pytest.mark.parametrize("name", MEANINGS)
def test_a_name_means_the_same_in_every_verb(name):
    mine = [(words, p) for words, p in OPTIONS if name in p.opts]
    assert mine
    for words, p in mine:
        assert re.search(MEANINGS[name], p.help or ""), words
    assert len({p.is_flag for _, p in mine}) == 1


def test_a_name_has_one_kind_of_value_in_every_verb():
    numbers = (type(click.FLOAT), type(click.INT))
    kinds: dict[str, set[bool]] = {}
    for _, p in OPTIONS:
        for name in p.opts:
            kinds.setdefault(name, set()).add(isinstance(p.type, numbers))
    several = {"-p", "--pressure"}  # one number, or a list of them where that makes sense
    assert {name for name, found in kinds.items() if len(found) > 1} == several


def test_n_is_a_largest_number():
    for words, p in OPTIONS:
        if "-n" in p.opts:
            assert (p.help or "").startswith("Largest number of"), words


def test_force_overwrites_and_nothing_else():
    forces = [(words, p) for words, p in OPTIONS if "--force" in p.opts]
    assert {words for words, _ in forces} >= {
        ("plot", "hull"),
        ("report",),
        ("hull",),
        ("results", "export"),
        ("relax",),
    }
    for words, p in forces:
        assert p.is_flag, words
        assert (p.help or "").startswith("Overwriting of"), words


def test_within_and_duplicates_mean_the_same_everywhere():
    for name, first in (("--within", "Largest distance above the hull, eV/atom"), ("--duplicates", "Definition of")):
        mine = [(words, p) for words, p in OPTIONS if name in p.opts]
        assert mine
        for words, p in mine:
            assert (p.help or "").startswith(first), words


@pytest.mark.parametrize(
    ("words", "option"), OPTIONS, ids=lambda one: " ".join(one) if isinstance(one, tuple) else one.name
)
def test_the_help_of_an_option_is_a_noun_phrase_with_unit_and_default(words, option):
    text = option.help or ""
    assert text.endswith((".", "]")), text
    assert text.split()[0].lower().strip(".,:;") not in NO_NOUNS, text
    assert "..." not in text[:4], text
    assert not re.match(r"(Å|eV|GPa|s|h)[,;.]", text), f"a unit alone: {text}"
    quantity = re.search(r"[Pp]ressure|[Ee]nthalp|[Dd]isplacement|[Tt]ime limit", text)
    if quantity and not text.startswith("Number of") and isinstance(option.type, (click.FloatRange, click.IntRange)):
        assert re.search(r"GPa|eV|Å|, s\b|relative", text), f"no unit: {text}"
    if not (option.is_flag or option.required or option.multiple):
        assert option.show_default or "[default: " in text, f"no word on what happens without it: {text}"


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    from uspex_bridge.cli import main

    def interrupt(*words, **options):
        raise KeyboardInterrupt

    for verb, said in (("relax", "--resume continues"), ("screen", "the same command continues")):
        monkeypatch.setattr(command.get_command(click.Context(command), verb), "callback", interrupt)
        words = {"relax": ["relax", __file__], "screen": ["screen", "x", "-m", "toy"]}[verb]
        with pytest.raises(SystemExit) as end:
            main.main(words)
        assert end.value.code == 10
        assert said in capsys.readouterr().err


def test_a_missing_extra_names_itself(monkeypatch, capsys):
    from uspex_bridge.cli import main

    for package, extra in {"matplotlib.figure": "analysis", "distributed": "cluster"}.items():

        def missing(*words, package=package, **options):
            raise ModuleNotFoundError(f"No module named '{package}'", name=package)

        monkeypatch.setattr(command.get_command(click.Context(command), "report"), "callback", missing)
        with pytest.raises(SystemExit) as end:
            main.main(["report", "results1"])
        assert end.value.code == 5
        assert f"pip install 'uspex_bridge[{extra}]'" in capsys.readouterr().err


def test_doctor_answers_at_once_where_there_is_no_folder(capsys):
    from uspex_bridge.cli import main

    with pytest.raises(SystemExit) as end:
        main.main(["doctor", "nonexist"])
    assert (end.value.code, capsys.readouterr()) == (3, ("", "uspex-bridge: nonexist: there is no such folder\n"))


def test_what_is_written_is_named_by_o_everywhere():
    outs = [p for _, found in ALL for p in found.params if "--out" in p.opts]
    assert outs
    assert all("-o" in p.opts for p in outs)
