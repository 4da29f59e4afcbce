"""What is replaced is whole or as it was before."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from uspex_bridge.base.errors import OutputError
from uspex_bridge.base.files import replacing, user_cache, write_whole
from uspex_bridge.call.config import load_config


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_replaced_in_the_end_only(tmp_path):
    place = tmp_path / "new" / "hull.csv"
    for text in ("one", "two"):
        with replacing(place) as draft:
            draft.write_text(text)
            assert not place.exists() or place.read_text() == "one"
        assert place.read_text() == text
    assert names(place.parent) == {"hull.csv"}


def test_a_folder_is_replaced_with_all_that_was_in_it(tmp_path):
    place = tmp_path / "systems"
    for name in ("Ca1", "Ni1"):
        with replacing(place) as draft:
            (draft / name).mkdir(parents=True)
        assert names(place) == {name}
    assert names(tmp_path) == {"systems"}


@pytest.mark.parametrize("killed", [False, True])
def test_what_fails_leaves_what_was_there(tmp_path, killed):
    place = tmp_path / "POSCARS"
    place.write_text("old")
    if killed:
        (tmp_path / f".new.POSCARS.{socket.gethostname()}.{ended()}").mkdir()

    def half() -> None:
        with replacing(place) as draft:
            assert not draft.exists()
            draft.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert place.read_text() == "old"
    assert names(tmp_path) == {"POSCARS"}


def ended() -> int:
    """Return the number of a process that is no more."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_two_processes_at_once_do_not_meet(tmp_path):
    place = tmp_path / "hull.csv"
    other = tmp_path / f".new.hull.csv.{socket.gethostname()}.{os.getppid()}" / "hull.csv"
    other.parent.mkdir()
    other.write_text("half")
    write_whole(place, "whole")
    assert place.read_text() == "whole"
    assert other.read_text() == "half"


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "hull.csv").symlink_to("there/hull.csv")
    for text in ("one", "two"):
        write_whole(tmp_path / "hull.csv", text)
        assert (tmp_path / "there" / "hull.csv").read_text() == text
    assert names(tmp_path) == {"hull.csv", "there"}
    assert (tmp_path / "hull.csv").is_symlink()


@pytest.mark.parametrize("redirected", [False, True])
def test_a_stream_is_written_itself(tmp_path, redirected):
    code = "from uspex_bridge.base.files import *; "
    code += "write_whole(Path('/dev/stdout'), 'two\\n'); write_whole(Path('/dev/null'), ''); print(3)"
    if redirected:
        with (tmp_path / "out").open("a+") as out:
            subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
        said = (tmp_path / "out").read_text()
    else:
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "two\n3\n"
    assert Path("/dev/null").is_char_device()
    assert names(tmp_path) == ({"out"} if redirected else set())


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="file/out.csv: cannot be written: "),
        replacing(tmp_path / "file" / "out.csv"),
    ):
        pass
    (tmp_path / "folder").mkdir()
    with (
        pytest.raises(OutputError, match="folder: cannot be written: Is a directory"),
        replacing(tmp_path / "folder") as draft,
    ):
        draft.write_text("a file does not take a folder's place")
    assert names(tmp_path) == {"file", "folder"}


def test_a_user_that_only_a_container_knows_has_no_home(tmp_path, monkeypatch):
    def unknown(user):
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert user_cache() == Path("/.cache")
    assert load_config(tmp_path).source == ""
