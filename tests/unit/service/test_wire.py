"""The messages between callers and service: what is taken, what is refused, what a mark protects."""

import json
import os
import subprocess
import sys

import pytest

import uspex_bridge
from uspex_bridge.base import private
from uspex_bridge.service import wire


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"nonsense\n", b"[1, 2]\n", b'"text"\n', b"\xff\xfe\x00\n", b"[" * 60000, b'{"a": \n']
)
def test_what_is_no_message(line):
    with pytest.raises(wire.WireError):
        wire.decode(line)


def test_a_message_is_one_line_whatever_it_says():
    message = {"text": "two\nlines, Å \udcff \u2028", "number": 1.5, "nothing": None}
    line = wire.encode(message)
    assert line.count(b"\n") == 1
    assert wire.decode(line) == message


def test_messages_are_json_as_its_module_reads_and_writes_it():
    message = {
        "text": 'a "b" \\ \n Å \U0001f600',
        "numbers": [0, -1, 1.5e-300, 1e22],
        "nested": {"a": [{}, [], True, None]},
    }
    assert json.loads(wire.encode(message)) == message
    assert wire.decode(json.dumps(message, indent=1).encode()) == message
    for two in (b'{"a": 1} {"b": 2}', b'{"a": 1}]'):
        with pytest.raises(wire.WireError):
            wire.decode(two)
    with pytest.raises(TypeError):
        wire.encode({"a": object()})


def test_a_python_without_the_c_half_of_json_has_the_same_messages():
    message = {"text": "two\nlines, Å", "numbers": [1, 2.5, None]}
    code = (
        "import sys; sys.modules['_json'] = None\nfrom uspex_bridge.service import wire\n"
        f"line = wire.encode({message})\nassert wire.decode(line) == {message}\nsys.stdout.buffer.write(line)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == wire.encode(message)


def test_the_place_is_the_variable_else_one_of_this_user(monkeypatch):
    monkeypatch.setenv(private.SOCKET, "/some/where")
    assert wire.address() == "/some/where"
    monkeypatch.setenv(private.SOCKET, "")
    assert wire.address() == f"/tmp/uspex_bridge-{os.getuid()}/service.sock"


def test_tcp_addresses():
    assert wire.split_tcp("/a/path") is None
    assert wire.split_tcp("tcp://node7:4711") == ("node7", 4711)
    assert wire.split_tcp("tcp://[::1]:4711") == ("::1", 4711)
    for wrong in ("tcp://node7", "tcp://:4711", "tcp://node7:port", "tcp://node7:70000"):
        with pytest.raises(wire.WireError, match="tcp://HOST:PORT"):
            wire.split_tcp(wrong)


def test_only_the_same_version_and_installation_will_do():
    mine = wire.greeting()
    assert mine["version"] == uspex_bridge.__version__
    assert wire.mismatch(mine, same_machine=True) == ""
    assert "0.0.7" in wire.mismatch({**mine, "version": "0.0.7"}, same_machine=True)
    assert "protocol 99" in wire.mismatch({**mine, "protocol": 99}, same_machine=True)
    assert "another installation" in wire.mismatch({**mine, "package": "/elsewhere"}, same_machine=True)
    assert wire.mismatch({**mine, "package": "/elsewhere"}, same_machine=False) == ""
    assert "no service" in wire.mismatch({"hello": "I am a web server"}, same_machine=True)


def test_private_files_and_folders(tmp_path):
    file = tmp_path / "secret"
    file.touch(0o600)
    assert private.not_private(str(file)) == ""
    file.chmod(0o640)
    assert "chmod 600" in private.not_private(str(file))
    folder = tmp_path / "folder"
    folder.mkdir(0o700)
    assert private.not_private(str(folder)) == ""
    folder.chmod(0o711)
    assert "chmod 700" in private.not_private(str(folder))


def test_a_link_is_not_private(tmp_path):
    (tmp_path / "folder").mkdir(0o700)
    (tmp_path / "link").symlink_to("folder")
    assert "is a link" in private.not_private(str(tmp_path / "link"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_another_user_is_not_private(tmp_path):
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 12345, 12345)
    assert "another user" in private.not_private(str(tmp_path))


def test_the_secret(tmp_path, monkeypatch):
    path = tmp_path / "secret"
    monkeypatch.setenv(wire.SECRET, str(path))
    with pytest.raises(wire.WireError, match="make it with"):
        wire.read_secret()
    path.touch(0o600)
    path.write_text("short\n")
    with pytest.raises(wire.WireError, match="fewer than 16"):
        wire.read_secret()
    path.write_text("a long enough secret\n")
    assert wire.read_secret() == b"a long enough secret"
    path.chmod(0o644)
    with pytest.raises(wire.WireError, match="must be mode"):
        wire.read_secret()


def seals():
    secret, challenge, nonce = b"a long enough secret", "aa" * 32, "bb" * 32
    return [wire.Seal(secret, challenge, nonce, server=server) for server in (True, False)]


def test_marked_lines_arrive():
    server, client = seals()
    for text in ({"do": "status"}, {"do": "status"}, {"text": "Å"}):
        assert wire.decode(server.open(client.close(wire.encode(text)))) == text
        assert wire.decode(client.open(server.close(wire.encode(text)).removesuffix(b"\n"))) == text


def test_a_marked_line_cannot_be_changed_repeated_reflected_or_left_out():
    line = wire.encode({"do": "stop"})
    server, client = seals()
    sealed = client.close(line)
    for wrong in (sealed.replace(b"stop", b"halt"), b"0" + sealed[1:], line, b"", b"\xff" * 70 + line):
        with pytest.raises(wire.WireError):
            seals()[0].open(wrong)
    assert server.open(sealed) == line
    with pytest.raises(wire.WireError):
        server.open(sealed)
    server, client = seals()
    client.close(line)
    with pytest.raises(wire.WireError):
        server.open(client.close(line))
    server, client = seals()
    with pytest.raises(wire.WireError):
        client.open(client.close(line))
