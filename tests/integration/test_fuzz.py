"""Whatever stands in a file, a call ends in a result or in one clear line with a documented exit code."""

from __future__ import annotations

import io
import itertools
import re
import shutil
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import ase.io
import pytest
from ase.build import bulk
from calling import INCAR, POSCAR, TOY, leave_stale_outputs, make_folder, potcar
from emulators.matlab_files import accept
from fuzz import VALUES, damaged, damaged_record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from learning import structures
from results_making import DATA, Made, write_matlab, write_python
from serving import assert_no_result, has_result

from uspex_bridge.base import jsonl
from uspex_bridge.base.errors import BridgeError
from uspex_bridge.base.templates import TEMPLATES
from uspex_bridge.cli import main
from uspex_bridge.cli.vasp import run
from uspex_bridge.learn.cycle.loop import Loop
from uspex_bridge.learn.cycle.settings import read_cycle_settings
from uspex_bridge.learn.label.settings import read_label_settings

LOOP = """dataset = "dataset"
[search]
places = ["search.extxyz"]
[models.a]
trainer = "mace"
[models.b]
trainer = "mace"
[stop]
cycles = 0
"""
STATIC = INCAR.replace("NSW = 400", "NSW = 3")
CODES = {0, 3, 4, 5, 6, 7, 8, 9, 10, 11}
TOML = f"""threads = 1
time_limit = 10.0
on_reject = "penalty"
penalty = 1000.0
steps = "final-model"
files = []
protocol = "own.toml"
[external]
code = 99
pressure = 0.0
energy = "enthalpy"
[service]
mode = "off"
{TOY}device = "cpu"
dtype = "float64"
timeout = 60.0
elements = ["Ca", "Fe", "Ni"]
[calculators.model.options]
epsilon = 0.5
"""
PROTOCOL = (TEMPLATES / "protocols" / "paper.toml").read_text()
for _name in ("mace", "mattersim"):
    PROTOCOL = PROTOCOL.replace(f'"{_name}"', '"model"')
#: Cases of each kind by default, and in the slow tests.
FEW, MANY = 20, 430
_numbers = itertools.count()


def assert_documented(code: int, said: str) -> None:
    """A result, or lines of ours that are no cry for help."""
    assert code in CODES, said
    assert not re.search(r"unexpected \w+: ", said), said
    assert "Traceback" not in said
    if code:
        lines = said.splitlines()
        assert any(line.startswith("uspex-bridge: ") for line in lines), said
        assert all(line.startswith(("uspex-bridge: ", "warning: ", "note: ")) for line in lines), said
        assert len(said) < 20_000


def relax(fold: Path) -> int:
    """Run the executable's command in this process; look at what it says and leaves; return the exit code."""
    leave_stale_outputs(fold)
    err = io.StringIO()
    with chdir(fold), redirect_stderr(err), redirect_stdout(io.StringIO()):
        code = run(fold, "vasp", {"time_limit": 20.0})
    assert_documented(code, err.getvalue())
    if code:
        assert_no_result(fold)
    else:
        assert has_result(fold)
        assert accept(fold).good
    return code


def command(*words: str) -> None:
    """Run a command of uspex-bridge in this process, and look at how it ends."""
    err = io.StringIO()
    with pytest.raises(SystemExit) as end, redirect_stderr(err), redirect_stdout(io.StringIO()):
        main.main(list(words))
    code = int(end.value.code or 0)
    if code == 1:  # a no of some commands
        assert err.getvalue().startswith("Error: no entry"), err.getvalue()
    else:
        assert_documented(code, err.getvalue())


class Places:
    """A folder for each case, which is removed after it."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def __enter__(self) -> Path:
        self.now = self.top / str(next(_numbers))
        self.now.mkdir()
        return self.now

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self.now)


@pytest.fixture(scope="module")
def top(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def poscar(top: Path, data: st.DataObject) -> None:
    text = data.draw(damaged(POSCAR))
    with Places(top) as place:
        fold = make_folder(place, incar=STATIC)
        (fold / "POSCAR").write_bytes(text)
        relax(fold)


def incar(top: Path, data: st.DataObject) -> None:
    text = data.draw(damaged(STATIC + 'ISYM = 0 ; KSPACING = 0.3 ! comment\nSYSTEM = "a b"\nPOTIM = 0.5 # x\n'))
    with Places(top) as place:
        fold = make_folder(place, incar=STATIC)
        (fold / "INCAR").write_bytes(text)
        relax(fold)


def potcars(top: Path, data: st.DataObject) -> None:
    text = data.draw(damaged(potcar("Ca", "Fe", "Ni")))
    with Places(top) as place:
        fold = make_folder(place, incar=STATIC)
        (fold / "POTCAR").write_bytes(text)
        relax(fold)


def toml(top: Path, data: st.DataObject) -> None:
    """bridge.toml, a protocol, settings of labels and of a loop."""
    values = r"(?<== )[^\n]+|^[\w.\[\]]+"
    which = data.draw(st.sampled_from(["bridge", "protocol", "label", "cycle"]))
    with Places(top) as place:
        if which in ("bridge", "protocol"):
            texts = {"bridge": TOML.encode(), "protocol": PROTOCOL.encode()}
            texts[which] = data.draw(damaged(texts[which].decode(), VALUES, values))
            fold = make_folder(place, incar=STATIC, settings=None)
            (place / "bridge.toml").write_bytes(texts["bridge"])
            (place / "own.toml").write_bytes(texts["protocol"])
            relax(fold)
            return
        kinds: dict[str, tuple[Path, str, Callable[[Path], object]]] = {
            "label": (TEMPLATES / "labels" / "vasp.toml", "vasp.toml", lambda path: read_label_settings(path, "vasp")),
            "cycle": (TEMPLATES / "cycle" / "cycle.toml", "cycle.toml", lambda path: read_cycle_settings(path.parent)),
        }
        source, name, read = kinds[which]
        (place / name).write_bytes(data.draw(damaged(source.read_text(), VALUES, values)))
        with suppress(BridgeError):
            read(place / name)


def made_search() -> list[Made]:
    ca, ni = bulk("Ca", "fcc", 5.58), bulk("Ni", "fcc", 3.52)
    return [
        Made(1, ca, -1.9, 0, "SymRandom", steps=(-1.7, -1.9), group=225),
        Made(2, ni, -5.5, 0, "SymRandom", steps=(-5.4, -5.5), group=225),
        Made(3, ni * (2, 1, 1), -10.4, 1, "Heredity", (1, 2), (-9.0, -10.4), 221),
    ]


def results(top: Path, data: st.DataObject) -> None:
    """A file of a results folder of either line."""
    line = data.draw(st.sampled_from(["matlab", "python", "real"]))
    with Places(top) as place:
        folder = place / "results1"
        if line == "real":
            shutil.copytree(DATA / "301", folder)
        else:
            (write_matlab if line == "matlab" else write_python)(folder, made_search(), ("Ca", "Ni"), 50.0)
        file = data.draw(st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file())))
        kind = data.draw(st.integers(0, 12))
        if kind == 0:
            file.unlink()
        elif kind == 1:
            file.write_bytes(b"")
        else:
            file.write_bytes(data.draw(damaged(file.read_text(errors="replace"))))
        words = data.draw(st.sampled_from([("summary",), ("best", "-n", "5"), ("show", "1")]))
        at = words[1:] if words[0] != "show" else ()
        command("results", words[0], *([str(folder), "1"] if words[0] == "show" else [str(folder), *at]))
        command("hull", str(folder))


@pytest.fixture(scope="module")
def search(top) -> Path:
    """A search with a record of six lines: results, a refusal and a penalty."""
    folder = top / "search"
    for number in range(6):
        fold = make_folder(folder, incar=STATIC, name=f"CalcFold{number + 1}")
        if number in (2, 3):
            (fold / "POSCAR").write_text(POSCAR.replace("4.200000 ", "0.200000 "))
        run(fold, "vasp", {"on_reject": "penalty"} if number == 3 else {})
    write_matlab(folder / "results1", made_search(), ("Ca", "Ni"), 50.0)
    assert {entry["status"] for entry in jsonl.read(folder / "bridge.record")} >= {"rejected", "penalty"}
    return folder


def record(top: Path, data: st.DataObject) -> None:
    """A damaged record is read as far as it can be."""
    search = top / "search"
    lines = list(jsonl.read(search / "bridge.record"))
    text = data.draw(damaged_record(lines))
    with Places(top) as place:
        shutil.copytree(search, place / "search")
        (place / "search" / "bridge.record").write_bytes(text)
        # 4 and 6: a line that is sound and false may say that the search has other models, or refused this structure.
        assert relax(place / "search" / "CalcFold1") in (0, 4, 6)
        for words in (("log",), ("log", "1"), ("log", "CalcFold1"), ("log", "--json")):
            command(*words, "--record", str(place / "search"))
        command("results", "summary", str(place / "search" / "results1"))


def learning_files(top: Path, data: st.DataObject) -> None:
    """A dataset's manifest, a loop's journal, a label."""
    which = data.draw(st.sampled_from(["manifest", "journal", "label"]))
    template = top / "learning"
    with Places(top) as place:
        shutil.copytree(template, place, dirs_exist_ok=True)
        file = {
            "manifest": place / "dataset" / "manifest.jsonl",
            "journal": place / "cycle.jsonl",
            "label": next(place.glob("labels/*/label.json")),
        }[which]
        file.write_bytes(data.draw(damaged_record(list(jsonl.read(file)))))
        if which == "journal":
            assert Loop(place).state.number in (0, 1)
        elif which == "label":
            command("label", "status", str(place / "labels"))
            command("label", "collect", str(place / "labels"), str(place / "new"))
        else:
            command("dataset", "summary", str(place / "dataset"))
            command("dataset", "check", str(place / "dataset"))


@pytest.fixture(scope="module")
def _learning(top) -> None:
    """Labels of four structures, filed, and a loop that has ended."""
    folder = top / "learning"
    folder.mkdir()
    (folder / "bridge.toml").write_text(TOY)
    ase.io.write(folder / "chosen.extxyz", structures(4, seed=7))
    with chdir(folder):
        command(
            "label", "prepare", "labels", "chosen.extxyz", *["--code", "model", "--model", "model", "--generation", "0"]
        )
        command("label", "run", "labels")
        command("label", "collect", "labels", "dataset")
    (folder / "cycle.toml").write_text(LOOP)
    ase.io.write(folder / "search.extxyz", structures(4, seed=3))
    facts = {"structures": 9, "to_compute": 5, "mean": {"delta_pv": 0.01}, "chosen": 2, "added": {}, "refused": 0}
    steps = ("screen", "select", "collect", "train a", "train b", "evaluate", "promote")
    done = [{"event": "done", "cycle": 0, "step": step, "seconds": 1.0, "facts": facts} for step in steps]
    errors = dict.fromkeys(("energy", "forces", "pv"), 0.1)
    kept = {"event": "promoted", "cycle": 0, "model": "a", "promote": True, "reasons": ["first"]}
    jsonl.append(
        folder / "cycle.jsonl",
        {"event": "opened", "labelled": True},
        *done,
        kept | {"held_out": errors, "newest": {}},
        {"event": "finished", "cycle": 0},
        {"event": "ended", "cycle": 0, "detail": "0 cycles done"},
    )


KINDS = {
    "poscar": poscar,
    "incar": incar,
    "potcar": potcars,
    "toml": toml,
    "results": results,
    "record": record,
    "learning": learning_files,
}


def fuzz(kind: str, top: Path, cases: int) -> None:
    @settings(
        max_examples=cases,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        KINDS[kind](top, data)

    check()


@pytest.mark.usefixtures("search", "_learning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_cases(kind, top):
    fuzz(kind, top, FEW)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("search", "_learning")
@pytest.mark.parametrize("kind", KINDS)
def test_many_cases(kind, top):
    fuzz(kind, top, MANY)
