"""Downloads that go on where they ended, the Hugging Face cache, weights in several files, and trust."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
from pathlib import Path

import pytest

from uspex_bridge.base.errors import ConfigError, ModelError
from uspex_bridge.models import backends, weights
from uspex_bridge.models.cards import CalculatorSettings, Card, KnownModel

BODY = os.urandom(3_000_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves BODY under any name, in ranges; it hangs up after ``cut`` bytes of each answer."""

    cut: int | None = None
    version = '"one"'
    asked: list[dict[str, str]] = []

    def do_GET(self):
        self.asked.append(dict(self.headers))
        start = 0
        if (wanted := self.headers.get("Range")) and self.headers.get("If-Range") == self.version:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(BODY) - start))
        if self.version:
            self.send_header("ETag", self.version)
        self.end_headers()
        self.wfile.write(BODY[start:][: self.cut])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(Server, "asked", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path / "models"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "models" / "demo"


def card(*models: KnownModel, **more) -> Card:
    return Card("demo", "Demo", "demo==1", "demo_package", "pip install demo==1", models=models, **more)


def cut_off(server: str, monkeypatch, known: KnownModel) -> None:
    monkeypatch.setattr(Server, "cut", 1_000_000)
    with pytest.raises(ModelError, match="could not fetch"):
        weights.fetch(card(known), known.name)
    monkeypatch.setattr(Server, "cut", None)


def test_a_download_goes_on_where_it_ended(server, folder, monkeypatch):
    known = KnownModel("big", url=f"{server}/big.bin", sha256=SHA256)
    cut_off(server, monkeypatch, known)
    assert not (folder / "big.bin").exists()
    calls = []
    path = weights.fetch(card(known), "big", progress=lambda done, total: calls.append((done, total)))
    assert path.read_bytes() == BODY
    assert Server.asked[-1]["Range"] == "bytes=1000000-"
    assert calls[0][0] > 1_000_000
    assert calls[-1] == (3_000_000, 3_000_000)
    assert os.listdir(folder) == ["big.bin"]


def test_another_version_on_the_server_is_fetched_whole(server, folder, monkeypatch):
    known = KnownModel("big", url=f"{server}/big.bin", sha256=SHA256)
    cut_off(server, monkeypatch, known)
    monkeypatch.setattr(Server, "version", '"two"')
    assert weights.fetch(card(known), "big").read_bytes() == BODY


@pytest.mark.parametrize("version", ["", 'W/"weak"'])
def test_without_a_version_nothing_is_kept(server, folder, monkeypatch, version):
    monkeypatch.setattr(Server, "version", version)
    cut_off(server, monkeypatch, KnownModel("big", url=f"{server}/big.bin", sha256=SHA256))
    assert os.listdir(folder) == []


def test_the_rest_of_a_wrong_file_is_not_kept(server, folder, monkeypatch):
    known = KnownModel("big", url=f"{server}/big.bin", sha256="00" * 32)
    cut_off(server, monkeypatch, known)
    with pytest.raises(ModelError, match=f"sha256 is {SHA256}"):
        weights.fetch(card(known), "big")
    assert os.listdir(folder) == []


def test_two_at_once(server, folder):
    import fcntl

    folder.mkdir(parents=True)
    with (folder / ".big.bin.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ModelError, match="another process is fetching it"):
            weights.fetch(card(KnownModel("big", url=f"{server}/big.bin", sha256=SHA256)), "big")


def test_a_token_goes_to_hugging_face_only(server, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    weights.fetch(card(KnownModel("big", url=f"{server}/big.bin", sha256=SHA256)), "big")
    assert "secret" not in str(Server.asked)


# ------------------------------------------------------------------------------------------- several files, a hub


def test_weights_in_several_files(server, folder, monkeypatch):
    known = KnownModel("net", hub="owner/net", files=("state.pt",), beside=("model.json",))
    monkeypatch.setattr(KnownModel, "urls", lambda self, file: (f"{server}/{file}",))
    monkeypatch.setattr(weights, "_refuse_plain", lambda url, expected: None)  # the server here speaks plain HTTP
    whole = card(known, folder_file="state.pt")
    path = weights.fetch(whole, "net")
    assert path == folder / "net" / "state.pt"
    assert sorted(os.listdir(path.parent)) == ["model.json", "state.pt"]
    assert weights.find(whole, CalculatorSettings()).path == path
    assert weights.find(whole, CalculatorSettings(model=str(path.parent))).path == path
    with pytest.raises(ModelError, match="is a folder"):
        weights.find(whole, CalculatorSettings(model=str(folder)))


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", None])
def test_the_cache_of_hugging_face(folder, tmp_path, monkeypatch, variable):
    known = KnownModel("net", hub="owner/net", files=("sub/state.pt", "state.pt"))
    place = {"HF_HUB_CACHE": tmp_path / "hub", "HF_HOME": tmp_path / "home" / "hub"}.get(
        variable or "", tmp_path / "cache" / "huggingface" / "hub"
    )
    if variable:
        monkeypatch.setenv(variable, str(place.parent if variable == "HF_HOME" else place))
    repository = place / "models--owner--net"
    for revision in ("aaa", "bbb", "ccc"):
        (repository / "snapshots" / revision / "sub").mkdir(parents=True)
        (repository / "snapshots" / revision / "sub" / "state.pt").write_text(revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("bbb")
    assert weights.find(card(known), CalculatorSettings()).path.read_text() == "bbb"
    own = folder / "state.pt"
    own.parent.mkdir(parents=True)
    own.write_text("own")
    assert weights.find(card(known), CalculatorSettings()).path == own


def test_where_models_of_a_hub_are_fetched():
    known = KnownModel("net", hub="owner/net", files=("sub/state.pt",))
    assert known.urls("sub/state.pt") == ("https://huggingface.co/owner/net/resolve/main/sub/state.pt",)


# -------------------------------------------------------------------------------------------------------- trust


def test_weights_of_a_url_need_trust(folder, monkeypatch):
    """They are refused before anything unpickles them."""
    url = "https://example.org/x/tuned.pth.tar"
    target = folder.parent / "chgnet" / "tuned.pth.tar"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"not weights at all")
    with pytest.raises(ConfigError, match=r"runs any code that they hold; .*trust = true under \[calculators.mine\]"):
        backends.load("mine", CalculatorSettings(kind="chgnet", model=url, device="cpu"))
    for settings in (
        CalculatorSettings(kind="chgnet", model=url, device="cpu", trust=True),
        CalculatorSettings(kind="chgnet", model=str(target), device="cpu"),
    ):
        with pytest.raises(ModelError, match="cannot be used as CHGNet weights"):
            backends.load("mine", settings)
