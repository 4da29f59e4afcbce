from __future__ import annotations

import hashlib
import http.server
import importlib.metadata
import os
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from uspex_bridge.base.errors import CalculationError, ConfigError, InputError, ModelError
from uspex_bridge.models import backends, cards, inventory, registry, weights
from uspex_bridge.models.cards import BuildRequest, CalculatorSettings, Card, KnownModel

DOCS = Path(__file__).parents[3] / "docs" / "calculators.md"
IRON = Atoms("Fe2", scaled_positions=[[0, 0, 0], [0.5, 0.45, 0.5]], cell=[2.9, 2.9, 3.0], pbc=True)


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Folders of weights of this test's own."""
    folders = {name: tmp_path / name for name in ("first", "second", "data", "cache", "home")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setenv("USPEX_BRIDGE_MODELS", f"{folders['first']}{os.pathsep}{folders['second']}")
    monkeypatch.setenv("XDG_DATA_HOME", str(folders["data"]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folders["cache"]))
    monkeypatch.setenv("HOME", str(folders["home"]))
    monkeypatch.chdir(tmp_path)
    return folders


@pytest.fixture
def card():
    return Card(
        "demo",
        "Demo",
        "numpy==1",
        "numpy",
        "pip install numpy",
        models=(
            KnownModel("big", url="https://example.org/a/big.bin?x=1", size_mb=12.5, licence="MIT", aliases=("b",)),
            KnownModel("small", url="https://example.org/small.bin", files=("small.bin", "old/small"), licence="ASL"),
        ),
        search=("{cache}/demo", "~/demo"),
    )


# --------------------------------------------------------------------------------------------------- the registry


def test_cards_of_all_kinds():
    found = inventory.cards()
    assert set(found) >= {"mace", "mattersim", "deepmd", "sevennet", "chgnet", "toy"}
    for kind, one in found.items():
        assert one.kind == kind
        assert one.licence
        assert one.citation
        assert all(model.in_wheel or model.url or model.hub or model.get for model in one.models)
        assert all(model.file_names for model in one.models)


def test_asking_imports_no_model_package():
    code = (
        "import sys\nfrom uspex_bridge.models import backends, inventory, registry\n"
        "from uspex_bridge.models.cards import CalculatorSettings as S\n"
        "inventory.cards(); [inventory.available(k, S()) for k in registry.BUILT_IN]\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'ase', 'mace', 'mattersim', 'deepmd',"
        "'sevenn', 'chgnet', 'numba', 'scipy', 'pymatgen'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_kind():
    with pytest.raises(ConfigError, match="no calculator 'mase'.*did you mean 'mace'"):
        backends.load("mase", CalculatorSettings())
    with pytest.raises(ConfigError, match="did you mean 'chgnet'"):
        inventory.available("approach", CalculatorSettings(kind="chgnett"))


def test_a_table_of_any_name(places):
    backend = backends.load("robust", CalculatorSettings(kind="toy"))
    assert (backend.name, backend.identity["kind"]) == ("robust", "toy")


PLUGIN = """
from uspex_bridge.calculators import toy
from uspex_bridge.models.cards import Card
CARD = Card("theirs", "Plug-in", "uspex_bridge", "uspex_bridge", "", takes_weights=False, devices=("cpu",), dtypes=())
build = toy.build
elements = toy.elements
def make(request):
    calculator = toy.build(request)
    calculator.request = request
    print("noise")
    return calculator
no_factory = 3
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package of somebody else's, with its entry points installed."""
    site = tmp_path / "site"
    (site / "theirs-1.0.dist-info").mkdir(parents=True)
    (site / "theirs.py").write_text(PLUGIN)
    (site / "broken.py").write_text("import nowhere_to_be_found\n")
    (site / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (site / "theirs-1.0.dist-info" / "entry_points.txt").write_text(
        "[uspex_bridge.calculators]\ntheirs = theirs\nfactory = theirs:make\nbroken = broken\nempty = json\n"
    )
    monkeypatch.syspath_prepend(str(site))
    yield site
    sys.modules.pop("theirs", None)


def test_plug_in_by_entry_point(plugin, caplog):
    found = inventory.cards()
    assert found["theirs"].title == "Plug-in"
    assert "factory" in found
    assert "broken" not in found
    assert "nowhere_to_be_found" in caplog.text
    backend = backends.load("theirs", CalculatorSettings(options={"epsilon": 0.1}))
    backend.calculator.calculate(IRON)
    strong = backends.load("factory", CalculatorSettings(options={"epsilon": 0.2}))
    strong.calculator.calculate(IRON)
    assert strong.calculator.results["energy"] == pytest.approx(2 * backend.calculator.results["energy"])
    with pytest.raises(ModelError, match="'broken'.*nowhere_to_be_found"):
        backends.load("broken", CalculatorSettings())
    with pytest.raises(ModelError, match="'empty'.*has CARD and build"):
        backends.load("empty", CalculatorSettings())
    assert "nowhere_to_be_found" in inventory.available("broken", CalculatorSettings()).problem


def test_module_and_factory(plugin, tmp_path, capfd):
    (tmp_path / "w.bin").write_bytes(b"weights")
    settings = CalculatorSettings(kind="theirs:make", model="w.bin", sha256=hashlib.sha256(b"weights").hexdigest())
    backend = backends.load("ours", settings)
    backend.calculator.calculate(IRON)
    assert np.isfinite(backend.calculator.results["energy"])
    assert backend.identity["weights"] == "w.bin"
    assert backend.identity["sha256"] == settings.sha256
    assert backend.elements is None
    backend.check_elements(["Og"])
    assert capfd.readouterr().out == ""  # what a library prints while loading is not for USPEX's eyes
    with pytest.raises(ModelError, match="theirs:nothing cannot be imported"):
        backends.load("ours", CalculatorSettings(kind="theirs:nothing"))
    with pytest.raises(ModelError, match="cannot be used as theirs:no_factory"):
        backends.load("ours", CalculatorSettings(kind="theirs:no_factory"))


# ------------------------------------------------------------------------------------------------ finding weights


def put(*path: object) -> Path:
    file = Path(*map(str, path))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(str(file).encode())
    return file


def find(card: Card, **settings) -> weights.Weights:
    return weights.find(card, CalculatorSettings(**settings), "mine")


def test_order_of_the_search(card, places):
    order = [
        (places["first"], "demo", "big.bin"),
        (places["first"], "big.bin"),
        (places["second"], "demo", "big.bin"),
        (places["data"], "uspex_bridge", "models", "demo", "big.bin"),
        (places["data"], "uspex_bridge", "models", "big.bin"),
        (places["cache"], "demo", "big.bin"),
        (places["home"], "demo", "big.bin"),
    ]
    for path in reversed(order):  # each new file comes before all that are there
        file = put(*path)
        for name in ("big", "BIG", "b"):
            found = find(card, model=name)
            assert (found.path, found.model) == (file, "big")
    assert find(card, model=str(put("own.bin"))).path == Path("own.bin").absolute()


def test_default_is_the_first_that_is_found(card, places):
    put(places["cache"], "demo", "old", "small")
    assert find(card).model == "small"
    put(places["home"], "demo", "big.bin")
    assert find(card).model == "big"


def test_message_for_missing_weights(card, places):
    for settings in ({}, {"model": "big"}):
        with pytest.raises(ModelError) as caught:
            find(card, **settings)
        text = str(caught.value)
        for part in (
            "'big'",
            "12.5 MB",
            "MIT",
            "big.bin",
            str(places["first"] / "demo"),
            str(places["cache"] / "demo"),
        ):
            assert part in text
        assert "uspex-bridge doctor --fetch demo:big" in text
        assert "[calculators.mine]" in text


def test_model_that_is_no_file_and_no_name(card):
    with pytest.raises(
        ModelError, match="'smal' of .calculators.mine. is neither a file nor a known model; did you mean 'small'"
    ):
        find(card, model="smal")
    with pytest.raises(ModelError, match="there is no file .*nowhere/big.bin"):
        find(card, model="nowhere/big.bin")
    with pytest.raises(ModelError, match="is a folder"):
        find(card, model=".")


def test_file_name_in_a_folder_of_weights(card, places):
    file = put(places["second"], "demo", "tuned.bin")
    assert find(card, model="tuned.bin").path == file


def test_url(card, places):
    url = "https://example.org/x/tuned.bin"
    with pytest.raises(ModelError, match=re.escape(f"uspex-bridge doctor --fetch demo:{url}")):
        find(card, model=url)
    file = put(places["first"], "demo", "tuned.bin")
    assert find(card, model=url).path == file


def test_checksum(card):
    file = put("own.bin")
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    assert find(card, model="own.bin", sha256=right.upper()).sha256 == right
    file.write_bytes(b"another")
    with pytest.raises(
        ModelError, match=f"own.bin: not the requested weights.*{hashlib.sha256(b'another').hexdigest()}, not {right}"
    ):
        find(card, model="own.bin", sha256=right)


def test_published_checksum(card, places):
    put(places["first"], "big.bin")
    strict = Card(**{**vars(card), "models": (KnownModel("big", url="https://x.org/big.bin", sha256="00" * 32),)})
    with pytest.raises(ModelError, match="fetch it again"):
        find(strict)


def test_no_default_model():
    with pytest.raises(ModelError, match="deepmd has no default model.*DPA-3.1-3M"):
        inventory.find_weights("deepmd", CalculatorSettings())


# ------------------------------------------------------------------------------------------------------- fetching


class Server(http.server.BaseHTTPRequestHandler):
    """Serves /right, /page (HTML), /short (less than it says); everything else is 404."""

    def do_GET(self):
        name = self.path.strip("/").partition("?")[0]
        body = {"right.bin": b"R" * 3_000_000, "page.bin": b"<html>", "short.bin": b"S" * 10}.get(name)
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", "text/html" if name == "page.bin" else "application/octet-stream")
        self.send_header("Content-Length", str(len(body or b"") + 5 * (name == "short.bin")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


RIGHT = hashlib.sha256(b"R" * 3_000_000).hexdigest()


def test_fetch_a_known_model(card, server, places):
    known = KnownModel("big", url=f"{server}/right.bin?download=true", sha256=RIGHT, files=("saved.bin",))
    online = Card(**{**vars(card), "models": (known,)})
    calls = []
    path = weights.fetch(online, "BIG", progress=lambda done, total: calls.append((done, total)))
    assert path == places["first"] / "demo" / "saved.bin"
    assert path.read_bytes() == b"R" * 3_000_000
    assert calls[-1] == (3_000_000, 3_000_000)
    assert len(calls) > 1
    assert os.listdir(path.parent) == ["saved.bin"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert find(online).path == path
    calls.clear()
    assert weights.fetch(online, "big", progress=lambda *call: calls.append(call)) == path
    assert calls == []  # it is there already


def test_fetch_by_way_of_a_mirror(card, server):
    known = KnownModel(
        "big", url=f"{server}/gone.bin", mirrors=(f"{server}/page.bin", f"{server}/right.bin"), sha256=RIGHT
    )
    path = weights.fetch(Card(**{**vars(card), "models": (known,)}), "big")
    assert path.name == "gone.bin"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == RIGHT


def test_fetch_a_url(card, server, places):
    path = weights.fetch(card, f"{server}/right.bin", RIGHT)
    assert path == places["first"] / "demo" / "right.bin"
    assert find(card, model=f"{server}/right.bin").path == path


@pytest.mark.parametrize(
    ("name", "sha256", "reason"),
    [
        ("gone.bin", RIGHT, "404|Not Found"),
        ("page.bin", RIGHT, "web page"),
        ("short.bin", RIGHT, "10 of 15 bytes|more expected"),
        ("right.bin", None, "plain HTTP is not secure.*sha256"),
        ("right.bin", "00" * 32, f"sha256 is {RIGHT}, not 00"),
    ],
)
def test_fetch_that_fails_leaves_nothing(card, server, places, name, sha256, reason):
    with pytest.raises(ModelError, match=f"could not fetch.*{server}/{name}.*({reason})"):
        weights.fetch(card, f"{server}/{name}", sha256)
    assert [file for _, _, files in os.walk(places["first"]) for file in files] == []


def test_fetch_replaces_a_wrong_file_only_by_a_right_one(card, server, places):
    old = put(places["first"], "demo", "right.bin")
    with pytest.raises(ModelError):
        weights.fetch(card, f"{server}/right.bin", "00" * 32)
    assert old.read_bytes() == str(old).encode()
    weights.fetch(card, f"{server}/right.bin", RIGHT)
    assert old.read_bytes()[:3] == b"RRR"


def test_fetch_without_a_network(card):
    with pytest.raises(ModelError, match="could not fetch 'http://127.0.0.1:9/x.bin'.*refused"):
        weights.fetch(card, "http://127.0.0.1:9/x.bin", RIGHT)


def test_a_redirection_does_not_leave_https():
    def follow(source: str, target: str) -> str:
        request = urllib.request.Request(source)
        return weights._Redirects().redirect_request(request, None, 302, "Found", {}, target).full_url

    assert follow("https://a.org/x", "https://b.org/x") == "https://b.org/x"
    with pytest.raises(ModelError, match="plain HTTP"):
        follow("https://a.org/x", "http://b.org/x")


@pytest.mark.parametrize("end", ["..%2F..%2Fx.bin", "%2Ftmp%2Fx.bin", "..", ".", "a%0Ab.bin", "a%00b", ""])
def test_a_url_cannot_name_a_file_elsewhere(card, places, end):
    with pytest.raises(ModelError, match="does not end in the name of a file"):
        weights.fetch(card, f"https://127.0.0.1:9/{end}", RIGHT)


def test_fetch_what_cannot_be():
    with pytest.raises(ModelError, match="comes with chgnet"):
        inventory.fetch("chgnet", "0.3.0")
    with pytest.raises(ModelError, match="does not end in the name of a file"):
        inventory.fetch("mace", "https://example.org/models/")
    with pytest.raises(ModelError, match="neither a URL nor a model that can be fetched; those are: medium-mpa-0"):
        inventory.fetch("mace", "tiny")


# --------------------------------------------------------------------------------------------- status and loading


def test_status():
    good = inventory.available("chgnet", CalculatorSettings())
    assert good.ok
    assert good.version == importlib.metadata.version("chgnet")
    assert good.weights.model == "0.3.0"
    missing = inventory.available("mace", CalculatorSettings())
    assert not missing.ok
    assert "--fetch mace:medium-mpa-0" in missing.problem


def test_package_that_is_not_installed(monkeypatch):
    absent = Card("chgnet", "CHGNet", "chgnet==0.4.2", "no_such_chgnet", "pip install chgnet==0.4.2")
    from uspex_bridge.calculators import chgnet

    monkeypatch.setattr(chgnet, "CARD", absent)
    assert inventory.available("chgnet", CalculatorSettings()).version is None
    for action in (backends.load, lambda *a: pytest.fail(inventory.available(*a).problem)):
        with pytest.raises(
            (ModelError, pytest.fail.Exception), match="CHGNet is not installed.*pip install chgnet==0.4.2"
        ):
            action("chgnet", CalculatorSettings())


@pytest.mark.parametrize("asked", ["cuda", "cuda:0", "cuda:7"])
def test_gpu_that_is_not_there(asked, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: asked == "cuda:7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ModelError, match=f"device = '{asked}' for chgnet, but this machine has"):
        backends.load("chgnet", CalculatorSettings(device=asked))


@pytest.mark.parametrize(
    ("asked", "resolved"), [("auto", "cuda:0"), ("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")]
)
def test_device(asked, resolved, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert inventory.resolve_device(inventory.cards()["mace"], asked) == resolved


def test_device_of_the_toy():
    assert backends.load("toy", CalculatorSettings()).identity["device"] == "cpu"
    with pytest.raises(ModelError, match="toy runs on the CPU only"):
        backends.load("toy", CalculatorSettings(device="cuda"))
    with pytest.raises(ConfigError, match="device = 'gpu' is not one of"):
        backends.load("toy", CalculatorSettings(device="gpu"))


def test_check_elements():
    backend = backends.load("toy", CalculatorSettings(options={"elements": ["Fe", "Ni"]}))
    backend.check_elements(["Fe"])
    with pytest.raises(InputError, match=r"toy \(toy\) does not know Ca, Og; it knows: Fe Ni"):
        backend.check_elements(["Fe", "Og", "Ca"])


def toy(**options):
    return backends.load("toy", CalculatorSettings(options=options)).calculator


def test_unknown_option():
    with pytest.raises(ConfigError, match="toy: unknown option 'hol'"):
        toy(hol=True)


def test_nan_after():
    calculator = toy(nan_after=2)
    energies = []
    for _ in range(3):
        calculator.calculate(IRON)
        energies.append(calculator.results["energy"])
    assert np.isfinite(energies).tolist() == [True, True, False]
    assert np.isnan(calculator.results["forces"]).all()


def test_raise_after():
    calculator = toy(raise_after=1)
    calculator.calculate(IRON)
    with pytest.raises(CalculationError, match="toy failed on this structure: RuntimeError: toy: told to raise"):
        calculator.calculate(IRON)
    assert calculator.results == {}


def test_hole():
    sound, holed = toy(), toy(hole=True)
    energies = {}
    for name, calculator in (("sound", sound), ("holed", holed)):
        for length in (3.6, 2.2, 1.4, 0.8):
            calculator.calculate(Atoms("Fe", cell=np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * length / 2, pbc=True))
            energies[name, length] = calculator.results["energy"]
    assert energies["sound", 3.6] == energies["holed", 3.6] < 0
    assert 0 < energies["sound", 2.2] < energies["sound", 1.4] < energies["sound", 0.8]
    assert 0 > energies["holed", 2.2] > energies["holed", 1.4] > energies["holed", 0.8]


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ({"energy": 1.0, "forces": np.zeros((2, 3))}, "KeyError: 'stress'"),
        ({"energy": 1.0, "forces": np.zeros((3, 3)), "stress": np.zeros(6)}, r"forces has shape \(3, 3\)"),
        ({"energy": [1.0, 2.0], "forces": np.zeros((2, 3)), "stress": np.zeros(6)}, "ValueError"),
    ],
)
def test_answer_of_the_wrong_form(results, reason, monkeypatch):
    from ase.calculators.calculator import Calculator

    from uspex_bridge.calculators import toy as module

    class Odd(Calculator):
        toy_options = module.ToyOptions()

        def calculate(self, *arguments):
            self.results = results

    monkeypatch.setattr(module, "build", lambda request: Odd())
    monkeypatch.setattr(module, "batch", lambda calculator: None)
    with pytest.raises(CalculationError, match=f"toy failed on this structure: .*{reason}"):
        toy().calculate(IRON)


def test_stress_as_a_matrix(monkeypatch):
    from ase.calculators.calculator import Calculator

    from uspex_bridge.calculators import toy as module

    class Matrix(Calculator):
        toy_options = module.ToyOptions()

        def calculate(self, *arguments):
            stress = np.array([[1, 6, 5], [6, 2, 4], [5, 4, 3]], dtype=np.float32)
            self.results = {"energy": np.float32(1), "forces": np.zeros((2, 3), np.float32), "stress": stress}

    monkeypatch.setattr(module, "build", lambda request: Matrix())
    monkeypatch.setattr(module, "batch", lambda calculator: None)
    calculator = toy()
    calculator.calculate(IRON)
    assert calculator.results["stress"].tolist() == [1, 2, 3, 4, 5, 6]
    assert calculator.results["stress"].dtype == calculator.results["forces"].dtype == np.float64


# ----------------------------------------------------------------------------------------------------------- docs


def test_docs_agree_with_the_cards():
    text = DOCS.read_text(encoding="utf-8")
    built_in = [inventory.cards()[kind] for kind in registry.BUILT_IN]
    assert cards.kinds_table(built_in) in text
    assert cards.models_table(built_in) in text
    assert cards.ranges_table(built_in) in text


def test_docs_know_every_setting():
    from dataclasses import fields

    from uspex_bridge.calculators.toy import ToyOptions

    text = DOCS.read_text(encoding="utf-8")
    for field in fields(CalculatorSettings):
        assert f"| `{field.name}` |" in text
    for field in fields(ToyOptions):
        assert re.search(rf"^\| `{field.name}\b", text, re.MULTILINE)
    for field in fields(BuildRequest):
        assert field.name in text


def test_threads_that_load_at_once_leave_output_and_logging_as_they_were():
    import logging
    import threading

    before, disabled = sys.stdout, logging.root.manager.disable
    gate = threading.Barrier(8)

    def load_slowly():
        gate.wait()
        for _ in range(20):
            with backends._quiet:
                print("a library that talks")

    threads = [threading.Thread(target=load_slowly) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.stdout is before
    assert logging.root.manager.disable == disabled
