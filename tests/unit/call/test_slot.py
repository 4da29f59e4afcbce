"""What a working folder was when a run began is compared truthfully with what it is in the end."""

import resource

import pytest

from uspex_bridge.base.errors import OutputError
from uspex_bridge.call.slot import SlotState


def test_an_input_that_cannot_be_read_again_has_not_changed(tmp_path):
    (tmp_path / "POSCAR").write_text("CaFe2Ni\n")
    with SlotState(tmp_path, ["POSCAR", "KPOINTS"]) as slot:
        slot.check()
        most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, most[1]))
        try:
            with pytest.raises(OutputError) as told:
                slot.check()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, most)
        assert "POSCAR: Too many open files; it could be read when this run began" in str(told.value)
        slot.check()
        (tmp_path / "POSCAR").unlink()
        with pytest.raises(OutputError, match="POSCAR changed during this run"):
            slot.check()
