"""Tests of what becomes of MACE's checkpoints when its training is ended."""

from __future__ import annotations

import zipfile
from types import SimpleNamespace

from uspex_bridge.learn.training.trainers.mace import Mace


def test_a_checkpoint_that_was_cut_off_is_not_written_out_as_the_model(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    with zipfile.ZipFile(folder / "model_epoch-3.pt", "w") as archive:
        archive.writestr("weights", "whole")
    (folder / "model_epoch-4.pt").touch()
    commands = []

    def run(title, kind, arguments, log):
        commands.append(arguments)
        return SimpleNamespace(finish=lambda: None)

    Mace().finish(SimpleNamespace(work=tmp_path, run=run))
    assert [path.name for path in folder.iterdir()] == ["model_epoch-3.pt"], "MACE would load the newest"
    assert commands[0][-2:] == ["--restart_latest", "--max_num_epochs=3"]
