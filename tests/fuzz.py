"""Strategies of hypothesis that damage files as people, editors, disks and other programs do."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import strategies as st

#: What may stand where a number or a word is expected.
WORDS = (
    *(
        "nan",
        "inf",
        "-inf",
        "1e400",
        "-1e-320",
        "0",
        "-0.0",
        "1e30",
        "-1",
        "2",
        "99999999999999999999",
        "1.0D+02",
        "5.",
    ),
    *(
        "*" * 11,
        "0x10",
        "1_000",
        "١٢",
        "1,5",
        "--1",
        "+",
        "1e",
        "2*3",
        "1/3",
        ".TRUE.",
        "T",
        "Xx",
        "Fe",
        "Fe_pv",
        "Uue",
    ),
    *(
        "Fe",
        "Uue",
        "=",
        ";",
        "#",
        "!",
        "\\",
        "{",
        "}",
        "[",
        "]",
        "(",
        "'",
        '"',
        "%",
        "-",
        "None",
        "é",
        "\ufeff",
        "\u2028",
        "\x0c",
    ),
)
#: What may stand where TOML has a value.
VALUES = (
    *(
        '""',
        '"x"',
        '"\\u0000"',
        '"a\\nb"',
        "[]",
        "{}",
        "[[]]",
        '[1, "a"]',
        "{a = 1}",
        "true",
        "-1",
        "0",
        "1e400",
        "nan",
    ),
    *("-inf", "1979-05-27", "07:32:00", "9223372036854775808", "'''\n'''", '"' + "x" * 5000 + '"', "1.5", '["x"]', "="),
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["converged", "EA1"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
_DAMAGES = (
    "word",
    "word",
    "word",
    "drop",
    "insert",
    "line lost",
    "line twice",
    "lines swapped",
    "cut",
    "bytes",
    "ends",
)


@st.composite
def damaged(draw: st.DrawFn, text: str, words: tuple[str, ...] = WORDS, pattern: str = r"\S+") -> bytes:
    """A text with one to three damages; ``pattern`` finds what is replaced by ``words``."""
    data = text.encode()
    for _ in range(draw(st.integers(1, 3))):
        data = _damage(draw, data, words, pattern)
    return data


def _damage(draw: st.DrawFn, data: bytes, words: tuple[str, ...], pattern: str) -> bytes:
    kind = draw(st.sampled_from(_DAMAGES))
    if kind == "cut":
        return data[: draw(st.integers(0, len(data)))]
    if kind == "bytes":
        at = draw(st.integers(0, len(data)))
        return data[:at] + draw(st.binary(min_size=1, max_size=6)) + data[at + draw(st.integers(0, 6)) :]
    if kind == "ends":
        return data.replace(b"\n", draw(st.sampled_from([b"\r\n", b"\r", b"\n\n", b" \n", b"\0\n"])))
    text = data.decode(errors="replace")
    if kind in ("word", "drop", "insert"):
        found = list(re.finditer(pattern, text))
        if not found:
            return data
        match = draw(st.sampled_from(found))
        word = "" if kind == "drop" else draw(st.sampled_from(words))
        end = match.start() if kind == "insert" else match.end()
        return (text[: match.start()] + word + (" " if kind == "insert" else "") + text[end:]).encode()
    lines = text.split("\n")
    one, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    if kind == "line lost":
        del lines[one]
    elif kind == "line twice":
        lines.insert(other, lines[one])
    else:
        lines[one], lines[other] = lines[other], lines[one]
    return "\n".join(lines).encode()


@st.composite
def damaged_record(draw: st.DrawFn, lines: list[dict[str, Any]]) -> bytes:
    """JSON lines of which some values, at any depth, are others or gone, and bytes are damaged."""
    entries = json.loads(json.dumps(lines))
    for _ in range(draw(st.integers(1, 4))):
        _damage_value(draw, draw(st.sampled_from(entries)))
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    return draw(damaged(text)) if draw(st.integers(0, 3)) == 0 else text.encode()


def _damage_value(draw: st.DrawFn, value: Any) -> None:
    while isinstance(value, (dict, list)) and value:
        key = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
        if not isinstance(value[key], (dict, list)) or draw(st.booleans()):
            if draw(st.integers(0, 3)) == 0:
                del value[key]
            else:
                value[key] = draw(JSON)
            return
        value = value[key]
