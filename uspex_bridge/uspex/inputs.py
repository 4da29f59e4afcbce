"""USPEX's two input files, read as USPEX reads them: INPUT.txt (MATLAB/Octave line) and input.uspex (Python line)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import read_text, split_lines
from uspex_bridge.vasp.structure import ELEMENTS


@dataclass(frozen=True)
class Value:
    """A piece of an input file and the line, from 1, that it stands on."""

    text: str
    line: int


@dataclass(frozen=True)
class InputTxt:
    """INPUT.txt as a list of lines, asked for one setting at a time.

    USPEX does not parse this file. For a number it takes the first line that holds the name anywhere, remarks
    included, and of that the first word before the colon; for a block it takes the lines between the first one
    with the opening name in its first ten columns and the first one with the closing name.
    (USPEX 9.4.4, FunctionFolder/getInput.py.)
    """

    path: Path
    lines: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> InputTxt:
        """Read the file; raises InputError."""
        return cls(path, tuple(split_lines(read_text(path))))

    def keyword(self, name: str) -> Value | None:
        """Return the value of ``value : name``, an empty one where USPEX would find no word."""
        for number, line in enumerate(self.lines, 1):
            if name.lower() in line.lower():
                words = line.split(":")[0].split()
                return Value(words[0] if words else "", number)
        return None

    def block(self, begin: str, end: str) -> list[Value]:
        """Return the lines between ``% begin`` and ``% end``, without the blanks around them."""
        first = None
        for number, line in enumerate(self.lines):
            if first is None and 0 <= line.lower().find(begin.lower()) < 10:
                first = number + 1
            if end.lower() in line.lower():
                return [Value(self.lines[i].strip(), i + 1) for i in range(first or number, number)]
        return []

    def elements(self) -> tuple[str, ...]:
        """Return atomType as symbols; it may name elements by symbol, atomic number or name."""
        words = " ".join(value.text for value in self.block("atomType", "EndAtomType")).split()
        return tuple(map(_symbol, words))


def _symbol(word: str) -> str:
    if word in ELEMENTS:
        return word
    from ase.data import atomic_names, chemical_symbols

    if word.isdigit():
        return chemical_symbols[int(word)] if 0 < int(word) < len(chemical_symbols) else word
    return dict(zip(map(str.lower, atomic_names), chemical_symbols, strict=False)).get(word.lower(), word)


_TOKEN = re.compile(
    r"""(?P<space>\s+|/\*.*?\*/)
      | (?P<mark>[][{}(),:])
      | '(?P<single>(?:[^'\\]|\\.)*)' | "(?P<double>(?:[^"\\]|\\.)*)"
      | (?P<number>-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.]))
      | (?P<word>[A-Za-z][-\w.]*)""",
    re.VERBOSE | re.DOTALL,
)
_WORDS = {"True": True, "False": False, "None": None}
_CLOSING = {"{": "}", "[": "]", "(": ")"}


@dataclass
class _Reader:
    """Recursive descent over the relaxed JSON of input.uspex: quotes and commas may be left out."""

    path: Path
    text: str
    first_line: int
    position: int = 0

    def document(self) -> Any:
        """Read the one value of a section."""
        value = self.value()
        if self.peek() is not None:
            raise self.error("text after the closing bracket")
        return value

    def error(self, problem: str) -> InputError:
        line = self.first_line + self.text.count("\n", 0, self.position)
        return InputError(f"{self.path}, line {line}: {problem}")

    def peek(self) -> re.Match[str] | None:
        """Return the next token, None at the end."""
        while self.position < len(self.text):
            token = _TOKEN.match(self.text, self.position)
            if token is None:
                raise self.error(f"cannot read {self.text[self.position : self.position + 20]!r}")
            if token.lastgroup != "space":
                return token
            self.position = token.end()
        return None

    def take(self) -> re.Match[str]:
        token = self.peek()
        if token is None:
            raise self.error("a bracket is never closed")
        self.position = token.end()
        return token

    def value(self) -> Any:
        token = self.take()
        kind, text = token.lastgroup, token[token.lastgroup or 0]
        if kind == "number":
            return int(text) if text.lstrip("-").isdigit() else float(text)
        if kind == "mark":
            if text == "{":
                return dict(self.pairs())
            if text in _CLOSING:
                items = list(self.items(_CLOSING[text]))
                return tuple(items) if text == "(" else items
            raise self.error(f"'{text}' where a value should be")
        return _WORDS.get(text, text) if kind == "word" else re.sub(r"\\(.)", r"\1", text)

    def items(self, closing: str) -> Iterator[Any]:
        while not self.skip(closing):
            yield self.value()
            self.skip(",")

    def pairs(self) -> Iterator[tuple[str, Any]]:
        while not self.skip("}"):
            key = self.value()
            if not isinstance(key, str) or not self.skip(":"):
                raise self.error(f"'{key}' should be a name and a colon")
            yield key, self.value()
            self.skip(",")

    def skip(self, mark: str) -> bool:
        """Take the mark if it comes next."""
        token = self.peek()
        if token is None or token["mark"] != mark:
            return False
        self.position = token.end()
        return True


@dataclass(frozen=True)
class InputUspex:
    """input.uspex: the main dictionary with every defined name in it replaced by its definition.

    ``lines`` says where each definition begins.
    """

    path: Path
    text: str
    main: dict[str, Any]
    lines: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> InputUspex:
        """Read the file.

        Raises:
            InputError: it is missing or its syntax is wrong.
        """
        text = read_text(path)
        sections = text.split("#define ")
        definitions: dict[str, Any] = {}
        lines: dict[str, int] = {}
        line = 1 + sections[0].count("\n")
        for section in sections[1:]:
            name, _, body = section.partition("\n")
            # Not stripped: USPEX would miss 'vasp1\r' just the same.
            definitions[name] = _Reader(path, body, line + 1).document()
            lines[name] = line
            line += section.count("\n")
        main = _Reader(path, sections[0], 1).document()
        if not isinstance(main, dict):
            raise InputError(f"{path}: the main section is not a dictionary in braces")
        return cls(path, text, _substituted(main, definitions, ()), lines)

    def line_of(self, word: str, after: int = 1) -> int | None:
        """Return the first line from ``after`` on that holds ``word``."""
        for number, line in enumerate(split_lines(self.text), 1):
            if number >= after and word in line:
                return number
        return None


def _substituted(value: Any, definitions: dict[str, Any], inside: tuple[str, ...]) -> Any:
    if isinstance(value, str) and value in definitions and value not in inside:
        found = definitions[value]
        inside = (*inside, value)
        value = {**found, "name": value} if isinstance(found, dict) else found
    if isinstance(value, dict):
        return {k: v if k == "name" else _substituted(v, definitions, inside) for k, v in value.items()}
    if isinstance(value, list):
        return [_substituted(v, definitions, inside) for v in value]
    return value
