"""What the doctor says of kinds of models and their weights."""

from __future__ import annotations

import re

from uspex_bridge.doctor.weights import families, known_models, said

KIND = {"kind": "orb", "title": "Orb", "installed": None, "environment": None, "get": "uspex-bridge env create orb"}
MODEL = {"kind": "orb", "model": "v3", "size_mb": 12.5, "licence": "Apache-2.0", "problem": "", "get": "fetch it"}


def lines(kind: dict, *models: dict) -> list[tuple[str, str]]:
    return list(said([KIND | kind], list(models)))


def test_a_kind_that_is_not_installed():
    assert lines({}, MODEL) == [("note", "not installed: Orb (orb); uspex-bridge env create KIND installs one")]
    assert lines({"get": "pip install orb"}, MODEL) == [("note", "Orb is not installed: pip install orb")]


def test_a_kind_in_its_environment_is_installed():
    there = {"environment": "/e/orb"}
    assert lines(there, MODEL) == [("ok", "Orb, in its environment: v3 (12.5 MB, Apache-2.0)")]
    assert lines(there) == [("note", "Orb, in its environment: name your weights in bridge.toml")]


def test_weights_that_are_not_here():
    found = lines({"installed": "3"}, MODEL | {"problem": "none"}, MODEL | {"model": "v2", "problem": "none"})
    assert found[0] == (
        "note",
        "Orb: no known weights are here; get v3 (12.5 MB, Apache-2.0) (1 more: --models): fetch it",
    )
    assert found[1][1].startswith("weights are looked for in ")


def test_every_kind_is_spoken_of_once():
    kinds = families()
    texts = [text for _, text in said(kinds, list(known_models()))]
    for kind in kinds:
        spoken = re.compile(rf"(^|: |, ){re.escape(kind['title'])}(:| \()")
        assert sum(spoken.search(text) is not None for text in texts) == 1, kind["title"]
