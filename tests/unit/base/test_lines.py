"""Messages as lines: what is taken, what is refused, over a socket."""

import json
import socket
import subprocess
import sys
import threading

import pytest

from uspex_bridge.base import lines


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"nonsense\n", b"[1, 2]\n", b'"text"\n', b"\xff\xfe\x00\n", b"[" * 60000, b'{"a": \n', b"{} {}"],
)
def test_what_is_no_message(line):
    with pytest.raises(lines.MessageError):
        lines.decode(line)


def test_a_message_is_one_line_whatever_it_says():
    message = {"text": "two\nlines, Å \udcff \u2028", "number": 1.5, "nothing": None}
    line = lines.encode(message)
    assert line.count(b"\n") == 1
    assert json.loads(line) == lines.decode(line) == message


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    with one, other:
        yield lines.LineSocket(one), other


def test_messages_arrive_whole_and_in_order(pair):
    receiving, other = pair
    sent = [{"number": k, "long": "x" * 300_000} for k in range(5)]
    data = b"".join(map(lines.encode, sent))

    def send():
        for at in range(0, len(data), 70_001):
            other.sendall(data[at : at + 70_001])

    sending = threading.Thread(target=send)
    sending.start()
    assert [receiving.receive(30) for _ in sent] == sent
    sending.join()


def test_who_hangs_up_who_is_silent_and_who_never_ends_a_line(pair, monkeypatch):
    receiving, other = pair
    with pytest.raises(TimeoutError):
        receiving.receive(0.01)
    other.sendall(b'{"a": 1}\n{"b"')
    assert receiving.arrived() == [{"a": 1}]
    with pytest.raises(TimeoutError):
        receiving.receive(0.01)
    monkeypatch.setattr(lines, "LONGEST", 1000)
    other.sendall(b"x" * 2000)
    with pytest.raises(lines.MessageError, match="without a line's end"):
        receiving.receive(1)
    other.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        receiving.arrived()


def test_a_process_keeps_its_socket_from_what_libraries_print():
    ours, theirs = socket.socketpair()
    code = (
        "from uspex_bridge.base.lines import claim_stdin\nline = claim_stdin()\nprint('noise')\n"
        "import sys; line.send({'read': sys.stdin.read(), 'got': line.receive()})"
    )
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.PIPE
        )
    line = lines.LineSocket(ours)
    line.send({"a": 1})
    assert line.receive(60) == {"read": "", "got": {"a": 1}}
    assert child.communicate()[1] == b"noise\n"
    line.close()
