"""Text from outside is shown, never obeyed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linfengine.text import UNSAFE, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\nb\r\tc\x7f\x9b", r"a\nb\r\tc\x7f\x9b"),
        ("bytes\udcff", r"bytes\udcff"),
        ("\u202egnp\u2069.\u2028", r"\u202egnp\u2069.\u2028"),
        *[(text, text) for text in (r"$\frac$ [bold]", "ε = 8/255, ℓ∞", "東京\u3000été", "🙂", "نیم\u200cفاصله")],
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_shown_text_is_one_line_and_needs_no_second_pass(text: str) -> None:
    shown = printable(text)
    assert not UNSAFE.search(shown)
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    assert shown == text or UNSAFE.search(text)
    shown.encode()
