"""What the record keeps when something fails that nobody thought of."""

import logging

import pytest
from calling import TOY, make_folder, record

from uspex_bridge.base.halt import Halter
from uspex_bridge.call.config import read_config
from uspex_bridge.call.folders import VaspFolder
from uspex_bridge.call.run import run_folder


def test_an_unexpected_failure_is_recorded_as_one(tmp_path):
    fold = make_folder(tmp_path, settings=TOY)
    config = read_config(tmp_path / "bridge.toml")

    def broken(_):
        raise RuntimeError("half an update of a package")

    with pytest.raises(RuntimeError):
        run_folder(VaspFolder(fold), config, logging.getLogger("test"), Halter(), models=broken)
    (entry,) = record(fold)
    assert (entry["status"], entry["code"], entry["exit"]) == ("failed", "RuntimeError", 1)
    assert "half an update" in entry["reason"]
    assert not (fold / "OSZICAR").exists()
