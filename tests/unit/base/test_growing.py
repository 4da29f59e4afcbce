"""Files that grow together do so whole, or not at all."""

import json

import pytest

from uspex_bridge.base import growing
from uspex_bridge.base.errors import OutputError

NAMES = ("steps", "folder", "structures", "record")


def grow(folder, number: int) -> None:
    """Add one structure to all."""
    (folder / "steps").write_text(f"{number}\n")
    (folder / "folder").mkdir(exist_ok=True)
    growing.append(folder / "structures", f"structure {number}\n")
    growing.append(folder / "record", f"line {number}\n")


def content(folder) -> dict[str, str]:
    return {path.name: path.read_text() if path.is_file() else "" for path in folder.iterdir()}


def test_what_is_added_stays(tmp_path):
    for number in (1, 2):
        with growing.together(tmp_path, *NAMES):
            grow(tmp_path, number)
    growing.take_back(tmp_path)
    assert content(tmp_path)["structures"] == "structure 1\nstructure 2\n"
    assert set(content(tmp_path)) == set(NAMES)


@pytest.mark.parametrize("before", [False, True])
def test_a_failure_takes_all_back(tmp_path, before):
    if before:
        growing.append(tmp_path / "structures", "structure 1\n")
        growing.append(tmp_path / "record", "line 1\n")
    was = content(tmp_path)

    def half() -> None:
        with growing.together(tmp_path, *NAMES):
            (tmp_path / "steps").write_text("2\n")
            (tmp_path / "folder").mkdir()
            growing.append(tmp_path / "structures", "structure 2\n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert content(tmp_path) == was


@pytest.mark.parametrize(
    ("line", "stays"), [("", False), ("line 2", False), ("\n", False), ("\nline 2", False), ("line 2\n", True)]
)
def test_a_kill_is_undone_but_where_the_record_has_its_line(tmp_path, line, stays):
    growing.append(tmp_path / "structures", "structure 1\n")
    growing.append(tmp_path / "record", "line 1\n")
    sizes = {name: (tmp_path / name).stat().st_size if (tmp_path / name).exists() else None for name in NAMES}
    grow(tmp_path, 2)
    (tmp_path / "record").write_text(f"line 1\n{line}")
    (tmp_path / ".growing").write_text(json.dumps(sizes))
    growing.take_back(tmp_path)
    left = content(tmp_path)
    assert set(left) == (set(NAMES) if stays else {"structures", "record"})
    assert left["structures"] == ("structure 1\nstructure 2\n" if stays else "structure 1\n")
    assert left["record"] == ("line 1\nline 2\n" if stays else "line 1\n")


@pytest.mark.parametrize("note", ["", "{", '{"record": 4', "[]", "{}", "null", '{"../../outside": null}'])
def test_a_damaged_note_undoes_nothing(tmp_path, note):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (tmp_path / "outside").write_text("precious")
    growing.append(folder / "record", "line 1\n")
    (folder / ".growing").write_text(note)
    growing.take_back(folder)
    assert content(folder) == {"record": "line 1\n"}
    assert (tmp_path / "outside").exists()


def test_what_cannot_be_noted_does_not_grow(tmp_path):
    (tmp_path / ".growing").mkdir()
    with pytest.raises(OutputError, match="cannot be written"), growing.together(tmp_path, "record"):
        raise AssertionError
