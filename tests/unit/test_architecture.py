"""The rooms of docs/architecture.md, the arrows between them as the imports draw them, and what a wheel installs."""

import ast
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "uspex_bridge"

#: Rooms that hold rooms.
HOUSES = ("learn", "results")
#: Room -> the rooms that it may import, from the ground up: an arrow runs only to a room that stands above it here.
ARROWS: dict[str, set[str]] = {
    "base": set(),
    "models": {"base"},
    "calculators": {"base", "models"},
    "relaxation": {"base"},
    "vibrations": {"base"},
    "vasp": {"base"},
    "call": {"base", "models", "relaxation", "vibrations", "vasp"},
    "service": {"base", "models", "relaxation", "call"},
    "uspex": {"base", "models", "relaxation", "vasp", "call"},
    "results.reading": {"base", "models", "vasp", "relaxation", "call", "uspex"},
    "results.phases": {"base", "results.reading"},
    "results.hulls": {"base", "vasp", "relaxation", "call", "results.reading", "results.phases"},
    "results.thermal": {"base", "call", "results.reading", "results.hulls"},
    "learn.data": {"base", "models", "call", "results.phases"},
    "learn.choose": {"base", "relaxation", "call", "results.reading", "results.phases", "results.hulls", "learn.data"},
    "learn.judge": {
        "base",
        "models",
        "relaxation",
        "call",
        "results.reading",
        "results.hulls",
        "learn.data",
        "learn.choose",
    },
    "learn.training": {
        "base",
        "models",
        "calculators",
        "relaxation",
        "call",
        "results.reading",
        "learn.data",
        "learn.judge",
    },
    "learn.label": {"base", "models", "vasp", "call", "results.reading", "results.hulls", "learn.data"},
    "learn.cycle": {"base", "models", "call", "results.reading", "learn.data", "learn.training", "learn.label"},
    "doctor": {"base", "models", "call", "uspex", "learn.training"},
    "figures": {
        "base",
        "vibrations",
        "results.reading",
        "results.phases",
        "results.hulls",
        "results.thermal",
        "learn.choose",
        "learn.judge",
        "learn.training",
        "learn.cycle",
    },
    "api": {"base", "models", "call", "results.reading", "results.hulls", "results.thermal", "learn.choose", "figures"},
    "cli": {
        *("base", "models", "relaxation", "call", "service", "uspex", "doctor", "figures", "api"),
        *("results.reading", "results.phases", "results.hulls", "results.thermal"),
        *("learn.data", "learn.choose", "learn.judge", "learn.training", "learn.label", "learn.cycle"),
    },
}
#: These may not even import numpy when they are loaded: they are what runs before anything can fail.
LIGHT = [
    "base.errors",
    "base.schema",
    "base.caller",
    "base.lines",
    "base.locks",
    "base.files",
    "base.jsonl",
    "base.logs",
    "base.halt",
    "base.memory",
    "base.private",
    "base.templates",
    "base.version",
    "base.words",
    "models.cards",
    "models.messages",
    "call.config",
    "call.slot",
    "service.wire",
    "service.client",
    "service.local",
    "service.device_slots",
    "service.peers",
    "service.pool",
    "service.daemon",
    "service.shape",
    "cli.entry",
    "cli.serve",
    "cli.main",
    "cli.vasp",
    "cli.external",
]


def room_of(parts: tuple[str, ...]) -> str:
    """Return the room of a module, by the parts of its name below the package."""
    return ".".join(parts[:2]) if parts[0] in HOUSES else parts[0]


def imported(path: Path) -> set[tuple[str, ...]]:
    """Return the modules of the project that a file imports, anywhere in it, as the parts of their names."""
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = tuple(name.split(".")[1:])
            if name.startswith("uspex_bridge.") and is_module(parts):
                found.add(parts)
    return found


@cache
def is_module(parts: tuple[str, ...]) -> bool:
    place = PACKAGE.joinpath(*parts)
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def rooms() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in ("__init__", "testing", "templates") and parts not in [
            (house, "__init__") for house in HOUSES
        ]:
            found.setdefault(room_of(parts), []).append(path)
    found["calculators"] = sorted((ROOT / "calculators").glob("*.py"))
    return found


def test_the_root_holds_rooms_and_no_loose_module():
    assert {path.name for path in PACKAGE.glob("*.py")} <= {"__init__.py", "testing.py"}
    assert set(rooms()) == set(ARROWS)


def test_arrows_run_down_only():
    """Every allowed arrow runs to a room further up in the list, so there is no circle of rooms."""
    names = list(ARROWS)
    assert all(names.index(target) < names.index(room) for room, targets in ARROWS.items() for target in targets)


@pytest.mark.parametrize("room", ARROWS)
def test_every_arrow_is_allowed(room):
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {'.'.join(parts)}"
        for path in rooms()[room]
        for parts in imported(path)
        if parts not in [(house,) for house in HOUSES] and room_of(parts) not in ARROWS[room] | {room}
    ]
    assert not wrong


def test_no_arrow_is_allowed_for_nothing():
    drawn = {room: {room_of(parts) for path in paths for parts in imported(path)} for room, paths in rooms().items()}
    assert {room: targets - drawn[room] for room, targets in ARROWS.items() if targets - drawn[room]} == {}


@pytest.mark.parametrize("room", ARROWS)
def test_every_room_says_what_it_knows(room):
    docstring = ast.get_docstring(ast.parse((PACKAGE.joinpath(*room.split(".")) / "__init__.py").read_text()))
    assert docstring
    assert "knows" in docstring


@pytest.mark.parametrize("module", LIGHT)
def test_what_must_start_fast_imports_nothing_heavy(module):
    heavy = ("numpy", "ase", "torch", "pymatgen", "scipy")
    code = f"import sys, uspex_bridge.{module}\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_of_every_command_imports_nothing_heavy():
    from uspex_bridge.cli.main import COMMANDS

    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom uspex_bridge.cli import main, vasp, external\n"
        f"for args in [[], *[[c] for c in {list(COMMANDS)}]]:\n"
        "    r = CliRunner().invoke(main.command, [*args, '--help'])\n    assert r.exit_code == 0, (args, r.output)\n"
        "    assert chr(92) + 'b' not in r.output, args\n"
        "for c in (vasp.command, external.command):\n    assert CliRunner().invoke(c, ['-h']).exit_code == 0\n"
        "print([m for m in ('ase', 'torch', 'pymatgen', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_wheel_installs_one_top_level_name_and_all_templates(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    scripts = {name.split("/")[-1] for name in names if ".data/scripts/" in name}
    assert scripts == {"uspex-bridge-external", "uspex-bridge-vasp"}
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name and ".data/scripts/" not in name}
    assert tops == {"uspex_bridge"}
    needed = ["calculators/mace.py", "templates/protocols/paper.toml", "relaxation/elements.json", "py.typed"]
    needed += [f"calculators/weights/{path.name}" for path in (ROOT / "calculators" / "weights").iterdir()]
    needed += [f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")]
    assert [name for name in needed if f"uspex_bridge/{name}" not in names] == []
    templates = {
        str(p.relative_to(ROOT))
        for p in (ROOT / "templates").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert {f"uspex_bridge/{name}" for name in templates} <= set(names)
