"""The layers of docs/architecture.md, held by reading the imports; and what a wheel installs."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "uspex_bridge"

#: Module or sub-package -> what of the project it may import at module level, itself aside. Left out: anything goes.
BASE = {"errors", "units", "records", "cards", "schema"}
MAY_IMPORT = {
    "errors": set(),
    "units": set(),
    "checksum": set(),
    "cards": {"errors", "schema"},
    "schema": {"errors"},
    "records": {"units"},
    "vasp": BASE | {"publish"},
    "protocol": BASE,
    "config": BASE,
    "relax": BASE | {"protocol", "neighbours", "symmetry"},
    "neighbours": {"errors", "records"},
    "calculators": BASE | {"neighbours"},
    "locks": {"errors", "publish"},
    "slot": {"errors", "locks", "logs", "publish"},
    "publish": {"errors"},
    "logs": set(),
    "threads": set(),
    "halt": {"errors"},
    "journal": BASE,
    "messages": {"errors"},
}
#: These may not even import numpy when they are loaded: they are what runs before anything can fail.
LIGHT = [
    "errors",
    "cards",
    "schema",
    "slot",
    "locks",
    "publish",
    "logs",
    "halt",
    "config",
    "messages",
    "service.wire",
    "service.client",
    "service.local",
    "service.bench",
    "service.child",
    "service.crew",
    "service.daemon",
    "service.shape",
    "cli.entry",
    "cli.serve",
    "cli.main",
    "cli.vasp",
    "cli.external",
]


def imported(path: Path, *, top_only: bool) -> set[str]:
    """Names of the project's parts that a module imports (``uspex_bridge.vasp.incar`` counts as ``vasp``)."""
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if guarded or (top_only and isinstance(node, ast.FunctionDef)):
            skipped |= {id(inner) for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "uspex_bridge":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("uspex_bridge.")}
    return found


def parts() -> list[tuple[str, Path]]:
    modules = [(p.stem, p) for p in PACKAGE.glob("*.py") if p.stem != "__init__"]
    for folder in ("vasp", "relax", "service", "results", "learn"):
        modules += [(folder, p) for p in (PACKAGE / folder).rglob("*.py")]
    modules += [("calculators", p) for p in (ROOT / "calculators").glob("*.py")]
    return modules


@pytest.mark.parametrize(("part", "path"), parts(), ids=lambda v: v.name if isinstance(v, Path) else v)
def test_layers(part, path):
    if part not in MAY_IMPORT:
        assert "cli" not in imported(path, top_only=False), f"{path.name} must not know the command line"
        return
    extra = imported(path, top_only=False) - MAY_IMPORT[part] - {part}
    assert not extra, f"{path.name} imports {sorted(extra)}, which its layer may not"


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
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"uspex_bridge"}
    for needed in ("calculators/mace.py", "templates/protocols/paper.toml", "relax/elements.json", "py.typed"):
        assert f"uspex_bridge/{needed}" in names
    templates = {
        str(p.relative_to(ROOT))
        for p in (ROOT / "templates").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert {f"uspex_bridge/{name}" for name in templates} <= set(names)
