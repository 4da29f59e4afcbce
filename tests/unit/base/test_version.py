"""The version, and the commit of a checkout, read as git would."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import uspex_bridge
from uspex_bridge.base import version as module

PACKAGE = Path(uspex_bridge.__file__).parent


@pytest.fixture
def checkout(tmp_path):
    """A repository of the package's lightest modules."""
    package = tmp_path / "top" / "uspex_bridge"
    (package / "base").mkdir(parents=True)
    for name in ("__init__.py", "base/__init__.py", "base/version.py"):
        shutil.copy(PACKAGE / name, package / name)
    git(package.parent, "init", "-q", "-b", "main")
    commit(package.parent)
    return package.parent


def git(top, *words):
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", *who, *words], cwd=top, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(top):
    git(top, "add", ".")
    git(top, "commit", "-q", "--allow-empty", "-m", "change")


def told(top):
    code = "from uspex_bridge.base.version import version; print(version())"
    done = subprocess.run([sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(top)!r}); {code}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    return done.stdout.strip()


def expected(top):
    return f"{uspex_bridge.__version__}+{git(top, 'rev-parse', 'HEAD')[:9]}"


def test_a_pull_changes_the_version(checkout):
    before = told(checkout)
    assert before == expected(checkout)
    commit(checkout)
    assert told(checkout) == expected(checkout) != before


def test_packed_detached_and_in_a_worktree(checkout, tmp_path):
    git(checkout, "pack-refs", "--all")
    assert told(checkout) == expected(checkout)
    git(checkout, "worktree", "add", "-q", "-b", "other/branch", str(tmp_path / "tree"))
    commit(tmp_path / "tree")
    assert told(tmp_path / "tree") == expected(tmp_path / "tree") != expected(checkout)
    git(checkout, "checkout", "-q", "--detach")
    assert told(checkout) == expected(checkout)


def test_what_is_no_checkout_has_its_release_alone(checkout):
    shutil.rmtree(checkout / ".git")
    assert told(checkout) == uspex_bridge.__version__
    (checkout / ".git").write_text("nonsense \xff")
    assert told(checkout) == uspex_bridge.__version__


def test_a_running_process_keeps_the_version_that_it_started_with(monkeypatch):
    before = module.version()
    monkeypatch.setattr(module, "_commit", lambda top: "f" * 40)
    assert module.version() == before
