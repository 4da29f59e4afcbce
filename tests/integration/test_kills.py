"""Killed (-9) at any moment a folder holds nothing, or a whole result of the structure it was called for."""

import json
import os
import subprocess
import sys
from pathlib import Path

from calling import INCAR, make_folder

TESTS = Path(__file__).parents[1]


def test_fifty_kills(tmp_path):
    fold = make_folder(tmp_path, incar=INCAR.replace("400", "15"))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed.py")), str(fold), "50"],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["none"] + seen["whole"] == 50
    assert seen["none"] > 5
    assert seen["let live"] == 5
