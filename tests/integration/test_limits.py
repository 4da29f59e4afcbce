"""Under any limit of the shell a call ends with its whole result, or with none and one line that says why."""

import subprocess

import pytest
from calling import INCAR, leave_stale_outputs, make_folder
from serving import BIN, assert_no_result, has_result

LIMITS = {
    "-f": (1, 2, 4, 8, 16),
    "-n": (11, 12, 13, 14, 16, 20),  # with fewer the shell does not start
    "-v": (60_000, 200_000, 400_000, 600_000),
    "-d": (60_000, 100_000, 150_000, 200_000),
    "-s": (128, 1024),
    "-u": (1,),
}


def under(limit: str, fold) -> int:
    """Call under a limit, look at what is left, and return the exit code."""
    leave_stale_outputs(fold)
    command = ["bash", "-c", f"ulimit {limit}; exec {BIN}/uspex-bridge-vasp"]
    done = subprocess.run(command, cwd=fold, capture_output=True, text=True, timeout=300, check=False)
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr
    if done.returncode == 0:
        assert has_result(fold)
    else:
        assert done.returncode in (3, 4, 5, 7, 8), done.stderr
        assert "uspex-bridge: " in done.stderr
        assert_no_result(fold)
    return done.returncode


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("option", LIMITS)
def test_limits_of_the_shell(tmp_path, option):
    fold = make_folder(tmp_path, incar=INCAR.replace("NSW = 400", "NSW = 0"))
    codes = {value: under(f"{option} {value}", fold) for value in LIMITS[option]}
    print(option, codes)
    assert under(f"{option} unlimited" if option not in ("-n", "-s") else f"{option} 512", fold) == 0
