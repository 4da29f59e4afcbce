"""A worker of the service fails or is killed at each file operation of its work."""

import json
from pathlib import Path

import pytest
from calling import INCAR, leave_stale_outputs, make_folder
from serving import TESTS, assert_no_result, has_result

#: Operations of the two relaxations that one worker does, about; every second one is tried.
OPERATIONS = range(0, 80, 2)


def tried(own, top: Path, what: str, at: int) -> bool:
    """Try a case; return whether there was an operation of that number."""
    token = top / "token"
    token.touch()
    fault = {"role": "work()", "what": what, "at": at, "root": str(top / "run"), "token": str(token)}
    environment = {"PYTHONPATH": f"{TESTS / 'faulty'}:{TESTS}", "TEST_FAULT": json.dumps(fault)}
    service = own("--workers", "1", env=environment)
    static = INCAR.replace("NSW = 400", "NSW = 2")
    folds = [make_folder(top / "run", incar=static, name=f"CalcFold{k}") for k in (1, 2)]
    for fold in folds:
        leave_stale_outputs(fold)
    runs = [service.start(fold) for fold in folds]
    died = False
    for run, fold in zip(runs, folds, strict=True):
        _, err = run.communicate(timeout=600)
        assert "Traceback" not in err
        assert "unexpected" not in err
        assert run.returncode in ((0,) if what == "KILL" else (0, 3, 4, 8)), err
        if run.returncode:
            assert_no_result(fold)
            died = True
        else:
            assert has_result(fold)
    assert not token.exists()
    died = died or "worker_died" in service.status()["events"]
    for fold in folds:
        again = service.call(fold)
        if again.returncode == 8 and not died:  # the two runs had fewer operations than that
            assert_no_result(fold)
            died, again = True, service.call(fold)
        assert again.returncode == 0, again.stderr
        assert has_result(fold)
    assert "Traceback" not in (service.path.parent / "screen").read_text()
    service.close()
    return died


@pytest.mark.parametrize(("what", "at"), [("KILL", 31), ("ENOSPC", 12)])
def test_a_few_cases(own, tmp_path, what, at):
    assert tried(own, tmp_path, what, at)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("what", ["KILL", "EIO", "ENOSPC", "EROFS"])
def test_every_case(own, tmp_path, what):
    met = 0
    for at in OPERATIONS:
        top = tmp_path / str(at)
        top.mkdir()
        met += tried(own, top, what, at)
    print(f"{what}: {len(OPERATIONS)} cases, {met} met an operation that counts")
    assert met > len(OPERATIONS) / 4
