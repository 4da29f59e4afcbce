"""The tutorials of docs/ and the README's result: every ``sh`` and ``python`` block runs as the page prints it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def blocks(page: str) -> list[tuple[str, str]]:
    """Return language and text of the fenced blocks of a page."""
    return re.findall(r"^```(sh|python)\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """Return a function that runs a shell script where the examples of the repository lie in the folder."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    (tmp_path / "examples").symlink_to(ROOT / "examples")

    def run(language: str, text: str) -> str:
        words = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def test_from_a_results_folder_to_a_figure(follow, tmp_path):
    shown = "".join(follow(*block) for block in blocks("tutorial_results.md"))
    page = (ROOT / "docs" / "tutorial_results.md").read_text()
    printed = [line.strip() for line in re.findall(r"^    (.+)$", page, re.MULTILINE) if line.strip() != "..."]
    assert len(printed) > 10
    assert [line for line in printed if line not in {other.strip() for other in shown.splitlines()}] == []
    for name in ("hull.png", "ternary.png", "report.html", "near_hull.extxyz", "POSCARS"):
        assert (tmp_path / name).stat().st_size > 500, name


def test_the_first_result_of_the_readme(follow):
    (line,) = re.findall(r"^    (uspex-bridge relax .*?)  ", (ROOT / "README.md").read_text(), re.MULTILINE)
    name, formula, *rest = follow("sh", line).splitlines()[2].split()
    assert (name, formula, rest[0], rest[2]) == ("start", "Ca2Fe3Ni", "P1", "Amm2")
    assert float(rest[4]) == pytest.approx(-1.4187, abs=2e-3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", ["tutorial_search.md", "tutorial_learning.md"])
def test_a_tutorial_runs(follow, page):
    for block in blocks(page):
        follow(*block)
