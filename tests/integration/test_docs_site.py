"""The documentation as a web site: no warning, no network, every command and every function."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from uspex_bridge import api
from uspex_bridge.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    words = ["-m", "mkdocs", "build", "--strict", "-f", str(ROOT / ".ci" / "mkdocs.yml"), "-d", str(folder)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_has_its_title_and_loads_nothing_from_elsewhere(site):
    for page in (ROOT / "docs").glob("*.md"):
        text = (site / page.with_suffix(".html").name).read_text()
        title = page.read_text().partition("\n")[0].removeprefix("# ")
        assert re.sub(r"\W", "", title) in re.sub(r"\W", "", re.sub(r"<[^>]+>", "", text)), page.name
        assert not re.findall(r"<(?:script|img|iframe|link)[^>]* (?:src|href)=\"?https?:", text), page.name


def test_the_reference_has_every_command_and_function(site):
    commands = (site / "reference" / "cli.html").read_text()
    assert [name for name in COMMANDS if f'id="uspex-bridge-{name}"' not in commands] == []
    assert "--pressure" in commands
    functions = (site / "reference" / "api.html").read_text()
    assert [
        name for name in api.__all__ if f'id="uspex_bridge.api.{name}"' not in functions and name != "Relaxed"
    ] == []
