"""The notebooks of examples/notebooks run to their end, and show what they show."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "examples" / "notebooks"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_it_runs(path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shown = nbformat.read(path, as_version=4)
    executed = NotebookClient(nbformat.from_dict(shown), timeout=240, kernel_name="python3").execute(
        cwd=str(path.parent)
    )
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert not [out for cell in code for out in cell.outputs if out.output_type == "error"]
    kept = [cell for cell in shown.cells if cell.cell_type == "code"]
    kinds = [[out.output_type for out in cell.outputs] for cell in kept]
    assert all(kinds), "a cell was saved without what it shows"
