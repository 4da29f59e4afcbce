import pytest

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.words import counted


@pytest.mark.parametrize(
    ("count", "noun", "words"),
    [
        (1, "structure", "1 structure"),
        (0, "structure", "0 structures"),
        (1, "entry", "1 entry"),
        (2, "entry", "2 entries"),
    ],
)
def test_nouns_agree_with_their_numbers(count, noun, words):
    assert counted(count, noun) == words


def test_no_name_breaks_the_line_of_an_error():
    assert str(ConfigError("unknown key 'a\nb\x1b[2K\u2028'")) == "unknown key 'a\\nb\\x1b[2K\\u2028'"
    assert str(ConfigError("several:", "  one\r", "  Å\ttwo")) == "several:\n  one\\r\n  Å\ttwo"
