import pytest

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
