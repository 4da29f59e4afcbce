"""What holds for one kind of calculator only, and what its card says against the installed package's own tables."""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from uspex_bridge.base.errors import CalculationError, ConfigError, ModelError
from uspex_bridge.base.threads import limit_threads
from uspex_bridge.models import backends, inventory, registry
from uspex_bridge.models.cards import CalculatorSettings, file_of_url


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    limit_threads(1)


def load(kind: str, **settings) -> backends.Backend:
    return backends.load(kind, CalculatorSettings(**settings))


def energy(backend: backends.Backend, atoms) -> float:
    backend.calculator.calculate(atoms)
    return backend.calculator.results["energy"]


def test_missing_package_skips_unless_forbidden(need_kind, monkeypatch):
    monkeypatch.setattr(registry, "package_version", lambda card: None)
    monkeypatch.delenv("USPEX_BRIDGE_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="mace-torch==.* is missing"):
        need_kind("mace")
    monkeypatch.setenv("USPEX_BRIDGE_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="mace-torch==.* is missing"):
        need_kind("mace")


# ------------------------------------------------------------------------------------------------- the weights


def test_nothing_touches_the_network(monkeypatch, mace_model, mattersim_model, se_a_model):
    def refuse(*arguments, **keywords):
        raise AssertionError(f"network used: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for kind, model in (
        ("chgnet", None),
        ("sevennet", None),
        ("mace", mace_model),
        ("mattersim", mattersim_model),
        ("deepmd", se_a_model),
    ):
        load(kind, model=str(model) if model else None)
    for kind, model in (("mace", "large"), ("mattersim", "1M"), ("sevennet", "7net-omni"), ("deepmd", "DPA-3.1-3M")):
        if not inventory.available(kind, CalculatorSettings(model=model)).ok:
            with pytest.raises(ModelError, match="are not on this machine"):
                load(kind, model=model)


@pytest.mark.parametrize("kind", ["mace", "mattersim", "deepmd", "chgnet", "sevennet"])
@pytest.mark.parametrize("wrong", ["text", "other", "cut"])
def test_weights_that_are_none(kind, wrong, need_kind, tmp_path, mace_model, mattersim_model):
    """A text file, another kind's weights and a truncated file: an error with the file and the kind, every time."""
    need_kind(kind)
    path = tmp_path / "weights.pth"
    other = mattersim_model if kind == "mace" else mace_model
    path.write_bytes({"text": b"hello\n" * 50, "other": other.read_bytes(), "cut": other.read_bytes()[:20000]}[wrong])
    with pytest.raises(ModelError) as caught:
        load(kind, model=str(path))
    assert str(path) in str(caught.value)
    assert f"cannot be used as {inventory.cards()[kind].title} weights" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "name"), [("chgnet", "0.2.0"), ("chgnet", "r2scan"), ("sevennet", "7net-l3i5")])
def test_other_weights_in_the_packages(kind, name, need_kind, crystal):
    need_kind(kind)
    default, other = load(kind), load(kind, model=name.upper())
    assert other.identity["model"] == name
    assert other.identity["sha256"] != default.identity["sha256"]
    assert abs(energy(other, crystal) - energy(default, crystal)) > 1e-3


def test_a_copy_of_the_wheels_weights_is_the_same_model(need_kind, tmp_path, crystal):
    need_kind("chgnet")
    found = inventory.find_weights("chgnet", CalculatorSettings())
    copy = tmp_path / "mine.pth.tar"
    shutil.copy(found.path, copy)
    own, default = load("chgnet", model=str(copy)), load("chgnet")
    assert energy(own, crystal) == energy(default, crystal)
    assert own.identity["sha256"] == default.identity["sha256"]
    assert own.energy_zero == "model"


def test_moments_that_were_not_trained_are_not_given(need_kind, tmp_path, crystal):
    """Fine-tuned on energies, forces and stresses alone, CHGNet still has numbers for them; they mean nothing."""
    need_kind("chgnet")
    import torch

    stored = torch.load(backends.find_weights("chgnet", CalculatorSettings()).path, "cpu", weights_only=False)
    for targets in ("efs", "efsm"):
        torch.save({"model": stored["model"], "trainer_args": {"targets": targets}}, tmp_path / f"{targets}.pth.tar")
    for options in ({}, {"on_isolated_atoms": "error"}):  # the bridge's own pass, and the package's
        without, given = (
            load("chgnet", model=str(tmp_path / f"{t}.pth.tar"), options=options) for t in ("efs", "efsm")
        )
        assert energy(without, crystal) == energy(given, crystal)
        assert ("magmoms" in without.calculator.results, "magmoms" in given.calculator.results) == (False, True)


# --------------------------------------------------------------------------------------------------------- heads


def test_heads_of_mace(need_kind, tmp_path, crystal):
    need_kind("mace")
    path = tmp_path / "heads.model"
    script = Path(__file__).with_name("make_mace.py")
    subprocess.run([sys.executable, str(script), str(path), "first", "second"], check=True, capture_output=True)
    energies = [energy(load("mace", model=str(path), head=head), crystal) for head in ("first", "second")]
    assert abs(energies[0] - energies[1]) > 1e-3
    with pytest.raises(ModelError, match="no head 'third'; heads: first, second"):
        load("mace", model=str(path), head="third")
    with pytest.raises(ModelError, match="first"):
        load("mace", model=str(path))


def test_heads_of_sevennet(need_kind, crystal):
    need_kind("sevennet")
    pbe, r2scan = (load("sevennet", model="7net-mf-0", head=head) for head in ("PBE", "r2scan"))
    assert abs(energy(pbe, crystal) - energy(r2scan, crystal)) > 0.1
    for head, reason in (("omat", "no head 'omat'"), (None, "head is not set")):
        with pytest.raises(ModelError, match=f"{reason}; this multi-fidelity model has: .*PBE"):
            load("sevennet", model="7net-mf-0", head=head)
    with pytest.raises(ModelError, match="has no heads"):
        load("sevennet", head="PBE")


def test_heads_of_deepmd(se_a_model):
    with pytest.raises(ModelError, match="a frozen model holds one head only"):
        load("deepmd", model=str(se_a_model), head="OMat24")
    with pytest.raises(ModelError, match="RANDOM is untrained"):
        load("deepmd", model=str(se_a_model), head="random")


def test_no_heads(need_kind):
    need_kind("chgnet")
    with pytest.raises(ConfigError, match="chgnet models have no heads"):
        load("chgnet", head="PBE")


# ----------------------------------------------------------------------------------------------------- precision


def test_precision_of_mace(mace_model, crystal):
    double, single = (load("mace", model=str(mace_model), dtype=dtype) for dtype in ("float64", "float32"))
    assert single.identity["dtype"] == "float32"
    assert 0 < abs(energy(double, crystal) - energy(single, crystal)) < 1e-3


@pytest.mark.parametrize(("kind", "takes"), [("chgnet", "runs in float32"), ("deepmd", "precision from the weights")])
def test_precision_that_is_not_offered(kind, takes, need_kind, se_a_model):
    need_kind(kind)
    with pytest.raises(ConfigError, match=takes):
        load(kind, model=str(se_a_model) if kind == "deepmd" else None, dtype="float64")


# ------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("kind", ["mace", "mattersim", "deepmd", "sevennet", "chgnet"])
def test_options_that_the_constructor_lacks(kind, need_kind, mace_model, mattersim_model, se_a_model):
    need_kind(kind)
    model = {"mace": mace_model, "mattersim": mattersim_model, "deepmd": se_a_model}.get(kind)
    for wrong in ("no_such_option", "device" if kind != "deepmd" else "head"):
        with pytest.raises(ConfigError, match=f"takes no '{wrong}' here"):
            load(kind, model=str(model) if model else None, options={wrong: 1})


def test_option_that_arrives(need_kind, crystal):
    need_kind("sevennet")
    assert energy(load("sevennet", options={"compute_atomic_virial": True}), crystal) == energy(
        load("sevennet"), crystal
    )
    need_kind("chgnet")
    loud = load("chgnet", options={"on_isolated_atoms": "error"})
    lone = crystal[[1]]
    lone.set_cell([20, 20, 20])
    with pytest.raises(CalculationError, match="isolated"):
        energy(loud, lone)


# ------------------------------------------------------------------------------------------------- single kinds


def test_incomplete_mattersim_checkpoint(mattersim_model, tmp_path):
    import torch

    checkpoint = torch.load(mattersim_model, map_location="cpu", weights_only=False)
    del checkpoint["model"][next(name for name in checkpoint["model"] if name.endswith("weight"))]
    torch.save(checkpoint, tmp_path / "holes.pth")
    with pytest.raises(ModelError, match=r"holes\.pth: incomplete MatterSim checkpoint"):
        load("mattersim", model=str(tmp_path / "holes.pth"))


def test_deepmd_checkpoint_beside_torch_geometric(deepmd_models, need_kind, crystal):
    """DPA-3 .pt files do not compile once torch_geometric is imported; the bridge gives them a process of their own."""
    need_kind("sevennet")
    load("sevennet")
    assert "torch_geometric" in sys.modules
    with load("deepmd", model=str(deepmd_models / "dpa3.pt")) as checkpoint:
        assert checkpoint.identity["worker"] == "isolated"
        frozen = load("deepmd", model=str(deepmd_models / "dpa3.pth"))
        assert "worker" not in frozen.identity
        np.testing.assert_allclose(energy(checkpoint, crystal), energy(frozen, crystal), rtol=0, atol=1e-10)


def test_models_frozen_before_deepmd_knew_charge_and_spin(need_kind, se_a_model, crystal):
    """Such a model has no ``get_dim_chg_spin``. It runs in batches, and its energies are those of TorchScript alone."""
    import torch

    from uspex_bridge.calculators import deepmd as kind

    need_kind("deepmd")
    kind.import_backend("cpu")
    from deepmd.calculator import DP

    with torch.jit.optimized_execution(False):
        calculator = DP(model=str(se_a_model))
        deep = calculator.dp.deep_eval
        script = deep.dp.model["Default"]

        class Old:
            def __getattr__(self, name):
                if name == "get_dim_chg_spin":
                    raise AttributeError(name)
                return getattr(script, name)

        class Deep:
            dp = SimpleNamespace(model={"Default": Old()})

            def __getattr__(self, name):
                return getattr(deep, name)

        old = SimpleNamespace(dp=SimpleNamespace(deep_eval=Deep()), type_dict=calculator.type_dict)
        squeezed = crystal.copy()
        squeezed.set_cell(0.93 * crystal.cell, scale_atoms=True)
        batch = kind.batch(old)
        assert batch is not None
        for atoms, found in zip((crystal, squeezed), batch.evaluate([crystal, squeezed]), strict=True):
            types = [calculator.type_dict[symbol] for symbol in atoms.symbols]
            arrays = (atoms.positions[None], np.array([types]), atoms.cell.array.reshape(1, 9))
            alone = script(*map(torch.tensor, arrays))
            assert found["energy"] == pytest.approx(alone["energy"].item(), abs=1e-6)
            np.testing.assert_allclose(found["forces"], alone["force"].detach().numpy()[0], atol=1e-6)


def test_deepmd_without_its_compiled_operators(need_kind):
    """The operators of the wheel fit one PyTorch; with any other one the backend must come up all the same."""
    need_kind("deepmd")
    code = (
        "import os; from uspex_bridge.calculators.deepmd import import_backend; backend = import_backend('cpu');"
        "import deepmd.pt.utils.env as env; print(env.DEVICE, backend.__name__, os.environ.get('DEVICE'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cpu", "deepmd.pt", "None"]


# ---------------------------------------------------------------------------------------------------- the cards


def known(kind: str) -> dict:
    return {model.name: model for model in inventory.cards()[kind].models}


def test_card_of_mace(need_kind):
    need_kind("mace")
    from mace.calculators.foundations_models import mace_mp_urls

    assert {name: model.url for name, model in known("mace").items()} == mace_mp_urls
    for model in known("mace").values():
        # mace-torch's own rule for the name of a file in its cache
        assert "".join(c for c in file_of_url(model.url) if c.isalnum() or c in "_") in model.files


def test_card_of_mattersim(need_kind):
    need_kind("mattersim")
    import mattersim.utils.download_utils as download

    source = Path(download.__file__).read_text()
    for name, model in known("mattersim").items():
        prefix, file = model.url.rsplit("/", 1)
        assert f'"{prefix}/"' in source
        assert file == f"{name}.pth"


def test_card_of_deepmd(need_kind):
    need_kind("deepmd")
    from deepmd.pretrained.registry import MODEL_REGISTRY

    assert known("deepmd").keys() == MODEL_REGISTRY.keys()
    for name, entry in MODEL_REGISTRY.items():
        model = known("deepmd")[name]
        assert [model.url, *model.mirrors] == entry["urls"]
        assert model.sha256 == entry["sha256"]
        assert model.files[0] == entry["filename"]


def test_card_of_sevennet(need_kind):
    need_kind("sevennet")
    from sevenn import _const, util

    released = {model.url: model for model in known("sevennet").values() if not model.in_wheel}
    assert sorted(released) == sorted(_const.CHECKPOINT_DOWNLOAD_LINKS.values())
    for path, url in _const.CHECKPOINT_DOWNLOAD_LINKS.items():
        assert str(Path(path).relative_to(_const._prefix)) in released[url].files
    assert set(known("sevennet")) == set(util.get_available_pretrained_models())


@pytest.mark.parametrize("kind", ["chgnet", "sevennet"])
def test_weights_in_the_wheel(kind, need_kind):
    need_kind(kind)
    for name, model in known(kind).items():
        if model.in_wheel:
            found = inventory.find_weights(kind, CalculatorSettings(model=name))
            assert found.path.stat().st_size / 1e6 == pytest.approx(model.size_mb, abs=0.06)
            assert found.sha256 == hashlib.sha256(found.path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["mace", "mattersim", "deepmd", "sevennet", "chgnet"])
def test_versions_that_the_cards_name(kind, need_kind):
    need_kind(kind)
    card = inventory.cards()[kind]
    assert card.package.split("==")[1] == registry.package_version(card)
    assert card.package in card.install
