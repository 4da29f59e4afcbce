"""What is replaced is whole or as it was before."""

from pathlib import Path

import pytest

from uspex_bridge.base.errors import OutputError
from uspex_bridge.base.files import replacing, user_cache
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
        (tmp_path / ".new.POSCARS").mkdir()

    def half() -> None:
        with replacing(place) as draft:
            assert not draft.exists()
            draft.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert place.read_text() == "old"
    assert names(tmp_path) == {"POSCARS"}


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
