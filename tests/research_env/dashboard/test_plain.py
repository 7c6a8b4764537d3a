"""Texts that would deceive the eye."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research_env.dashboard import plain


@pytest.mark.parametrize(
    "given_text, seen",
    [
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07done\x1b[2J\x1b[1;1H", "red done"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("10%\r50%\r100%\r\nend", "10%\n50%\n100%\nend"),
        ("if admin:\u202e ]\u2066# check", "if admin:⟨U+202E⟩ ]⟨U+2066⟩# check"),
        ("a\u200bb\ufeffc\x00d\x85e", "a⟨U+200B⟩b⟨U+FEFF⟩c⟨U+0000⟩d⟨U+0085⟩e"),
        ("tag\U000e0041\ud800", "tag⟨U+E0041⟩⟨U+D800⟩"),
        ("名前 naïve \u0627\u0644 👩‍🔬\ttab", "名前 naïve \u0627\u0644 👩‍🔬\ttab"),
        (None, ""),
    ],
)
def test_what_hides_or_turns_letters_around_is_named(given_text, seen):
    assert plain.plain(given_text) == seen


@given(st.text())
def test_nothing_hidden_is_left(text):
    said = plain.plain(text)
    assert not any(c < " " and c not in "\n\t" for c in said) and "\x1b" not in said
    assert not set(said) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e")
    assert plain.plain(said) == said
    said.encode()


@given(st.text(max_size=300), st.integers(5, 50))
def test_a_line_is_one_line_and_no_longer_than_it_may_be(text, most):
    said = plain.line(text, most)
    assert len(said) <= most and "\n" not in said


def test_a_huge_text_is_cut_before_it_is_worked_on():
    assert plain.line("x" * 50_000_000, 20) == "x" * 19 + "…"
    cut = plain.excerpt("a" * 60 + "b" * 60, 20)
    assert cut == "a" * 10 + "\n… 100 characters are left out …\n" + "b" * 10
