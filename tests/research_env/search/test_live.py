import io

import pytest

from research_env.bank import SEARCH, Bank
from research_env.outcome import Outcome, State
from research_env.researcher.interface import BASELINE, Proposal
from research_env.running.live import Live


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Standing:
    """What the display asks of a search."""

    phase, spent_seconds, spent_cost = SEARCH, 3723.4, 0.25

    class plan:
        ideas = 10

    class scheduler:
        running = ("one", "two")

    def confirmation_seconds(self):
        return 60.0

    def time_left(self):
        return float("inf")


@pytest.fixture
def bank():
    with Bank(":memory:", write=True) as made:
        add(made, Proposal("baseline", "", "", kind=BASELINE), Outcome(State.OK, 1.0))
        yield made


def add(bank, proposal, outcome):
    number = bank.add(proposal)
    bank.enqueue(number, SEARCH, 0)
    bank.finish(bank.claim().id, outcome)
    return bank.conclude(number)


def test_a_line_for_each_idea_says_what_came_of_it(bank):
    out = io.StringIO()
    live = Live(bank, out)
    live.ended(add(bank, Proposal("good", "", "a"), Outcome(State.OK, 2.0)))
    live.ended(add(bank, Proposal("bad", "", "b"), Outcome(State.CRASHED, reason="why")))
    live.show(Standing())
    first, second = out.getvalue().splitlines()
    assert first == "    1 fresh    ok 2 good  <- best so far"
    assert second == "    2 fresh    crashed bad: why"


def test_on_a_terminal_the_last_line_says_where_the_search_stands(bank):
    out = Terminal()
    live = Live(bank, out)
    live.ended(add(bank, Proposal("bad", "", "b"), Outcome(State.TIMED_OUT)))
    standing = live.standing(Standing())
    for part in ("1/10 ideas", "2 running", "baseline 1", "1 timed_out", "1:02:03", "cost 0.25"):
        assert part in standing
    assert standing.endswith("left")
    live.show(Standing())
    live.close()
    assert out.getvalue().endswith("\r\x1b[K")


def test_no_title_moves_the_cursor_or_rings_the_bell(bank):
    out = io.StringIO()
    hostile = "\x1b[2J\a\rlong\n" + "x" * 500 + "\u202e"
    Live(bank, out).ended(add(bank, Proposal(hostile, "", "c"), Outcome(State.OK, 0.5)))
    (line,) = out.getvalue().splitlines()
    assert line.isprintable()
    assert len(line) < 200
