"""The process that looks after the students of searches, with a script in place of uspex-bridge."""

import asyncio
import json
import logging
import os
import sys

import pytest

from uspex_bridge.service.students import EVERY, Students

SCRIPT = """
import json, os, sys, time
with open(sys.argv[1], "a") as out:
    out.write(json.dumps(sys.argv[2:]) + "\\n")
print("student 01 is in use", flush=True)
while not os.path.exists(sys.argv[1] + ".go"):
    time.sleep(0.01)
"""


@pytest.fixture
def students(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "calls")]
    return Students(command, dict(os.environ), logging.getLogger("test"))


async def until(true):
    while not true():
        await asyncio.sleep(0.01)


def test_a_search_that_trains_its_student_is_looked_after_now_and_then_one_process_at_a_time(
    students, tmp_path, caplog
):
    calls = tmp_path / "calls"

    async def jobs():
        for _ in range(EVERY - 1):
            students.ended({"trains": ["/search", "/search/bridge.toml"]})
            students.ended({"trains": []})
            students.ended({})
        assert not calls.exists()
        for _ in range(EVERY + 1):  # another is due while the first one is at it
            students.ended({"trains": ["/search", "/search/bridge.toml"]})
        await until(calls.exists)
        (tmp_path / "calls.go").write_text("")
        await until(lambda: "student 01 is in use" in caplog.text)
        await students.close()

    asyncio.run(asyncio.wait_for(jobs(), 60))
    (words,) = map(json.loads, calls.read_text().splitlines())
    assert words == ["train", "student", "/search", "--config", "/search/bridge.toml"]


def test_the_end_of_the_service_ends_it(students, tmp_path):
    async def jobs():
        for _ in range(EVERY):
            students.ended({"trains": ["/search", "/search/bridge.toml"]})
        await until((tmp_path / "calls").exists)
        await students.close()

    asyncio.run(asyncio.wait_for(jobs(), 60))


def test_a_command_that_cannot_run_is_logged_and_no_more(tmp_path, caplog):
    students = Students([str(tmp_path / "nothing")], {}, logging.getLogger("test"))

    async def jobs():
        for _ in range(EVERY):
            students.ended({"trains": ["/search", ""]})
        await students.close()

    asyncio.run(asyncio.wait_for(jobs(), 60))
    assert "cannot be looked after" in caplog.text
