"""What no program of ours has written is passed over or named, whatever it is."""

import sys

import pytest

from uspex_bridge.base import jsonl
from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.locks import Lock
from uspex_bridge.base.schema import read_toml

DEEP = "[" * 100_000


def test_brackets_by_the_thousand_are_no_entry(tmp_path):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)  # as packages do; json's own check then lets the stack overflow
    try:
        with pytest.raises(ValueError, match="nested brackets"):
            jsonl.loads(DEEP)
    finally:
        sys.setrecursionlimit(limit)
    path = tmp_path / "bridge.record"
    path.write_text(f'{{"id": 1}}\n{DEEP}\n{{"id": 2}}\n')
    assert [entry["id"] for entry in jsonl.read(path)] == [1, 2]


def test_settings_with_brackets_by_the_thousand_are_refused(tmp_path):
    (tmp_path / "bridge.toml").write_text(f"a = {DEEP}")
    with pytest.raises(ConfigError, match=r"bridge.toml: cannot be read"):
        read_toml(tmp_path / "bridge.toml")


@pytest.mark.parametrize("told", ["", DEEP, "[]", '{"since": 1e999}', '{"since": 0, "pid": 1e999, "host": "a"}'])
def test_a_lock_whose_holder_is_not_told_is_one_all_the_same(tmp_path, told):
    lock = Lock(tmp_path / ".lock")
    assert lock.acquire()
    (tmp_path / ".lock").write_text(told)
    assert lock.holder() == ""
    assert not Lock(tmp_path / ".lock").acquire()
