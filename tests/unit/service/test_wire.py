"""Where the service is, and which one will do."""

import os

from uspex_bridge.base import private
from uspex_bridge.base.version import version
from uspex_bridge.service import wire


def test_the_place_is_the_variable_else_one_of_this_user(monkeypatch):
    monkeypatch.setenv(private.SOCKET, "/some/where")
    assert wire.address() == "/some/where"
    monkeypatch.setenv(private.SOCKET, "")
    assert wire.address() == f"/tmp/uspex_bridge-{os.getuid()}/service.sock"


def test_only_the_same_version_and_installation_will_do():
    mine = wire.greeting()
    assert mine["version"] == version()
    assert wire.mismatch(mine) == ""
    assert "0.0.7" in wire.mismatch({**mine, "version": "0.0.7"})
    assert "protocol 99" in wire.mismatch({**mine, "protocol": 99})
    assert "another installation" in wire.mismatch({**mine, "package": "/elsewhere"})
    assert wire.mismatch({**mine, "package": "/elsewhere", "host": "node7"}) == ""
    assert "not a service" in wire.mismatch({"hello": "I am a web server"})
