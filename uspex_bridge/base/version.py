"""The version of this package, with the commit where it lies in a git checkout.

Standard library only, and git is not asked: every call of the executables compares versions with the service.
"""

from __future__ import annotations

import os

import uspex_bridge

#: Digits of a commit that are shown.
_SHORT = 9


def version() -> str:
    """Return the version that this process runs; in a checkout followed by ``+`` and the first digits of its commit."""
    return _VERSION


def _commit(top: str) -> str:
    """Return the commit that is checked out in a folder, an empty string where it is no checkout."""
    git = os.path.join(top, ".git")
    try:
        if os.path.isfile(git):  # of a worktree: "gitdir: PATH"
            git = os.path.join(top, _read(git).partition(" ")[2])
        head = _read(os.path.join(git, "HEAD"))
        if not head.startswith("ref: "):
            return head
        return _of_branch(git, head.removeprefix("ref: "))
    except (OSError, ValueError):
        return ""


def _of_branch(git: str, branch: str) -> str:
    """Return the commit that a branch is at: in a file of its own, or in the list of packed ones."""
    common = os.path.join(git, "commondir")  # where the branches of a worktree are
    folder = os.path.join(git, _read(common)) if os.path.isfile(common) else git
    if os.path.isfile(own := os.path.join(folder, branch)):
        return _read(own)
    for line in _read(os.path.join(folder, "packed-refs")).splitlines():
        commit, _, name = line.partition(" ")
        if name == branch:
            return commit
    return ""


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def _find() -> str:
    commit = _commit(os.path.dirname(os.path.dirname(os.path.abspath(uspex_bridge.__file__))))
    return f"{uspex_bridge.__version__}+{commit[:_SHORT]}" if commit else uspex_bridge.__version__


_VERSION = _find()  # now: what a later `git pull` puts there is not what a running service is
