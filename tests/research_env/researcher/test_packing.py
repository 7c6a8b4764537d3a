"""What fits into a prompt, by value, within its budget, and what is said of the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research_env.researcher.packing import ALWAYS, Piece, Section, pack
from sbp_jax.errors import UserError


def words(text):
    return len(text.split())


@st.composite
def sections(draw):
    values = st.sampled_from([1.0, 2.0, 3.0, 10.0, ALWAYS])
    count = draw(st.integers(1, 4))
    return [
        Section(
            f"Section {s}",
            [
                Piece(f"piece {s} {p}", f"@{s}/{p}@ " + "w " * draw(st.integers(0, 30)), value)
                for p, value in enumerate(draw(st.lists(values, max_size=8)))
            ],
        )
        for s in range(count)
    ]


def shown(packed, sections):
    return {
        piece.name: f"@{s}/{p}@" in packed.text
        for s, section in enumerate(sections)
        for p, piece in enumerate(section.pieces)
    }


@given(sections(), st.integers(0, 400))
def test_a_pack_keeps_to_its_budget_and_leaves_out_the_least_valuable(sections, budget):
    try:
        packed = pack(sections, budget, words)
    except UserError:
        must = [Section(s.title, [p for p in s.pieces if p.value == ALWAYS]) for s in sections]
        what_is_lost = 28 * len(sections)  # a section's title, and the names of what it has lost
        assert words(pack(must, 10**6, words).text) + what_is_lost > budget
        return
    assert words(packed.text) <= budget
    kept = shown(packed, sections)
    pieces = [piece for section in sections for piece in section.pieces]
    inside = [p.value for p in pieces if kept[p.name]]
    outside = [p.value for p in pieces if not kept[p.name]]
    assert ALWAYS not in outside
    assert not inside or not outside or min(inside) >= max(outside)
    assert sorted(packed.left_out) == sorted(p.name for p in pieces if not kept[p.name])
    assert pack(sections, budget, words) == packed


@given(sections())
def test_with_room_for_all_nothing_is_left_out(sections):
    packed = pack(sections, 10**6, words)
    assert packed.left_out == () and all(shown(packed, sections).values())
    assert "left out" not in packed.text


def test_a_section_says_what_it_has_lost():
    pieces = [Piece(f"idea {i}", "word " * 10, value=i) for i in range(1, 5)]
    packed = pack([Section("Ideas", pieces)], 40, words)
    assert packed.left_out == ("idea 2", "idea 1")
    assert "(2 of 4 left out for lack of space: idea 1, idea 2)" in packed.text


def test_what_has_to_be_shown_and_does_not_fit_is_refused_with_the_remedy():
    with pytest.raises(UserError, match="takes 102 tokens, and there is room for 50.*--context"):
        pack([Section("Code", [Piece("a", "w " * 100)])], 50, words)
