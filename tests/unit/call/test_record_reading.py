"""Lines of the record: what a call writes is sound, what none has written is passed over."""

import json

import pytest
from calling import TOY, make_folder

from uspex_bridge.base import jsonl
from uspex_bridge.call import record_file, record_reading
from uspex_bridge.cli.vasp import run


@pytest.fixture(scope="module")
def entry(tmp_path_factory) -> dict:
    """What a call writes."""
    fold = make_folder(tmp_path_factory.mktemp("search"), settings=TOY)
    assert run(fold, "vasp", {"stages": "1"}) == 0
    (written,) = jsonl.read(fold.parent / record_file.FILENAME)
    return written


def changed(entry: dict, path: str, value: object) -> dict:
    copy = json.loads(json.dumps(entry))
    *above, last = path.split(".")
    inner = copy
    for key in above:
        inner = inner[int(key) if isinstance(inner, list) else key]
    inner[last] = value
    return copy


def test_what_a_call_writes_is_sound(entry, tmp_path):
    assert record_reading.is_sound(entry)
    path = tmp_path / "record"
    jsonl.append(path, entry, entry | {"status": 7})
    with path.open("a") as stream:
        stream.write("{\n")
    assert list(record_reading.read(path)) == [entry]
    assert record_file.places(path) == {entry["key"]: 0}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *[
            (name, 1)
            for name in ("status", "folder", "formula", "reason", "step", "flags", "stages", "models", "input")
        ],
        *[(name, "1") for name in ("enthalpy", "volume", "fmax", "seconds", "id", "natoms", "steps")],
        *[(name, float("nan")) for name in ("enthalpy", "volume", "enthalpy_per_atom")],
        ("enthalpy", None),
        ("natoms", 10**400),
        ("steps", ["1", "2"]),
        ("flags", [1]),
        ("stages", [1]),
        ("stages.0.calculator", None),
        ("stages.0.seconds", None),
        ("models.model", "toy"),
        ("models.model.kind", 3),
        ("input.cell", [[1, 0], [0, 1]]),
        ("input.cell", None),
        ("output.scaled", [[0, 0, 0]]),
        ("output.scaled", [[0, 0, "x"]] * 4),
        ("output.symbols", [1, 2, 3, 4]),
        ("free_energy", {"temperature": 300.0}),
        ("free_energy", {"temperature": "300", "method": "scha"}),
    ],
)
def test_what_no_call_writes_is_passed_over(entry, path, value):
    assert not record_reading.is_sound(changed(entry, path, value))


@pytest.mark.parametrize("path", ["stages.0.fmax", "stages.0.stress_gpa", "models.model.sha256"])
def test_what_may_be_unknown(entry, path):
    assert record_reading.is_sound(changed(entry, path, None))
