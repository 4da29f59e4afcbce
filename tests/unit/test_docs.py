"""The pages of docs/, the messages of the package and its packaging files: links, completeness, words."""

import ast
import configparser
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from uspex_bridge.base import errors
from uspex_bridge.base.version import version
from uspex_bridge.cli.main import command

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
SOURCES = sorted(
    path
    for path in [*ROOT.glob("uspex_bridge/**/*.py"), *ROOT.glob("calculators/*.py")]
    if "templates" not in path.parts
)
#: Words and phrases that no page, help text or message may contain, with what stands for them.
BANNED = {
    r"\bwhose\b": "of which, with",
    r"\bwho\b": "name the program",
    r"\bso that\b": "a second sentence",
    r"\bfor ever\b": "without end",
    r"\bbeyond belief\b": "above the limit",
    r"\bwhatever\b": "every, any",
    r"\bof late\b": "recently",
    r"\bnonetheless\b": "nevertheless",
    r"\bat hand\b": "available",
    r"\bmend(s|ed|ing)?\b": "correct, improve",
    r"\bforetold\b": "predicted",
    r"\bdear(er)?\b": "expensive",
    r"\bthereof\b|\bwhereupon\b|\bwherein\b|\bthereby\b": "a plain sentence",
    r"\bhands? on\b": "passes on",
    r"\bgo(es)? on downhill\b": "continues downhill",
    r"\bwhat one has\b": "the present",
    r"\bwhat a run survives\b": "reliability",
    r"\bsurvives?\b": "withstands, remains",
    r"\bcan be had\b|\bcould be had\b": "is available",
    r"\bof its own affair\b|\bits own affair\b": "outside the control",
    r"\bis yours to\b|\bare yours to\b": "the user",
    r"\bthe least that works\b": "simple",
    r"\bworth the name\b": "a plain statement",
    r"\bnothing to say against\b": "no problem found",
    r"\bturned away\b": "refused",
    r"\bonce more\b": "again",
    r"\blies? lowest\b": "is the lowest",
    r"\b(is|are|was) handed\b|\bhanded on\b|\bhands? over\b": "gets, is passed",
    r"\blaid over\b": "changes, with the differences from",
    r"\bso many\b|\bso few\b|\bso much more\b": "a number",
    r"\bobeyed\b": "used",
    r"\bsees? to it\b": "the user",
    r"\bnobody\b|\bsomebody\b": "no program, a program",
    r"\bgo(es)? on by (itself|hand)\b": "continues",
    r"\bholds only what\b": "contains only the differences",
    r"\bas it came\b": "unrelaxed",
    r"\bwhat is left out\b": "a noun",
    r"\bhitherto\b|\bhence\b|\bthence\b|\blest\b|\bupon\b|\balbeit\b|\bwhilst\b|\bshall\b": "plain",
}


def constants(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string in a file that a user may see: help texts, not other docstrings."""
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = " ".join(map(ast.unparse, getattr(node, "decorator_list", [])))
            if ast.get_docstring(node) and not re.search(r"command|group", decorators):
                skipped.add(id(node.body[0].value))  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


def prose(path: Path) -> str:
    """Return a page without its code blocks and tables of other people's text."""
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_keep_to_plain_words(path):
    text = " ".join(prose(path).split())
    found = [
        f"{match[0]} (say: {instead})" for word, instead in BANNED.items() for match in re.finditer(word, text, re.I)
    ]
    assert not found


def shown() -> list[tuple[Path, int, str]]:
    """Return file, line and text of all that a user may see: help texts, messages, and the files that init writes."""
    found = [(path, line, text) for path in SOURCES for line, text in constants(path)]
    return found + [
        (path, line, text)
        for path in sorted((ROOT / "templates").rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
        for line, text in enumerate(path.read_text().splitlines(), 1)
    ]


def test_messages_help_and_templates_keep_to_plain_words():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {match[0]} (say: {instead})"
        for path, line, text in shown()
        for word, instead in BANNED.items()
        if (match := re.search(word, " ".join(text.split()), re.I))
    ]
    assert not found


def test_messages_and_templates_name_no_file_that_a_wheel_lacks():
    pointer = re.compile(r"(?<![\w/])(docs|examples|benchmarks|tests|\.ci)/\w+|README|CONTRIBUTING")
    found = [
        f"{path.relative_to(ROOT)}:{line}: {match[0]}"
        for path, line, text in shown()
        if "training" not in path.parts and (match := pointer.search(text))
    ]
    assert not found


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    heads = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        place = (path.parent / name).resolve() if name else path
        if not place.exists() or (anchor and place.suffix == ".md" and anchor not in anchors(place)):
            broken.append(target)
    assert not broken


def test_the_site_has_every_page():
    def names(nav: object) -> Iterator[str]:
        if isinstance(nav, str):
            yield nav
        for item in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else []:
            yield from names(item)

    nav = yaml.safe_load((ROOT / ".ci" / "mkdocs.yml").read_text())["nav"]
    assert sorted(names(nav)) == [path.relative_to(ROOT / "docs").as_posix() for path in PAGES]


def rows(page: str) -> set[str]:
    """Return the words of the first column of a page's tables."""
    cells = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    return {word.strip(" `") for cell in cells for word in cell.split(",")}


def test_troubleshooting_has_every_exit_code_and_every_refusal():
    kinds = [errors.BridgeError, *errors.BridgeError.__subclasses__()]
    codes = {str(kind.exit_code) for kind in kinds}
    refusals = {word for word in rows("exit_codes.md") if re.fullmatch(r"[a-z-]+", word) and word != "code"}
    assert len(refusals) > 12
    assert codes | refusals <= rows("troubleshooting.md")


def test_docs_lists_and_shows_pages():
    listed = CliRunner().invoke(command, ["docs"])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.output.splitlines()] == sorted(
        p.stem for p in (ROOT / "docs").glob("*.md")
    )
    for name in ("incar", "incar.md", "docs/incar.md"):
        assert CliRunner().invoke(command, ["docs", name]).output.startswith("# INCAR")
    wrong = CliRunner().invoke(command, ["docs", "inca"])
    assert isinstance(wrong.exception, errors.InputError)
    assert "did you mean 'incar'?" in str(wrong.exception)


def test_packaging_files_agree_with_setup_cfg():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    recipe = (ROOT / ".ci" / "packaging" / "conda" / "meta.yaml").read_text()
    assert f'set version = "{version().partition("+")[0]}"' in recipe
    plain = yaml.safe_load(re.sub(r"\{\{.*?\}\}", "x", re.sub(r"\{%.*?%\}", "", recipe)))
    needed = {line.strip() for line in setup["options"]["install_requires"].splitlines() if line.strip()}
    assert needed <= {line.replace(" ", "") for line in plain["requirements"]["run"]}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == version().partition("+")[0]
    extras = set(setup["options.extras_require"])
    for name in ("Dockerfile", "apptainer.def"):
        text = (ROOT / ".ci" / "packaging" / name).read_text()
        (asked,) = re.findall(r"EXTRAS=([\w,]+)", text)
        assert set(asked.split(",")) <= extras


def test_shell_parts_of_the_container_files_are_valid():
    docker = (ROOT / ".ci" / "packaging" / "Dockerfile").read_text().replace("\\\n", " ")
    parts = re.findall(r"^RUN (.+)$", docker, re.MULTILINE)
    image = (ROOT / ".ci" / "packaging" / "apptainer.def").read_text()
    parts += re.findall(r"^%(?:post|runscript|environment|test)\n((?:    .*\n|\n)+)", image + "\n", re.MULTILINE)
    assert len(parts) == 5
    for part in parts:
        subprocess.run(["bash", "-n", "-c", part], check=True)
