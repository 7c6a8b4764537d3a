import sqlite3
import threading

import pytest

from research_env.bank import FINAL, QUEUED, RUNNING, SEARCH, SELECTION, Bank, Duplicate
from research_env.outcome import Outcome, State
from research_env.researcher.interface import BASELINE, Proposal
from sbp_jax.errors import UserError


@pytest.fixture
def bank(tmp_path):
    with Bank(tmp_path / "ideas.db", write=True) as made:
        made.set("direction", "maximize")
        made.add(Proposal("baseline", "", "", kind=BASELINE))
        yield made


def ended(bank, diff, *scores, state=State.OK):
    number = bank.add(Proposal(diff, "", diff))
    for seed, score in enumerate(scores):
        bank.enqueue(number, SEARCH, seed)
        run = bank.claim()
        bank.finish(run.id, Outcome(state, score if state is State.OK else None))
    return bank.conclude(number)


def test_the_same_change_is_refused_whatever_it_is_called(bank):
    first = bank.add(Proposal("one", "in these words", "- a\n+ b\n"))
    with pytest.raises(Duplicate) as refused:
        bank.add(Proposal("two", "in other words", "- a\n+ b\n"))
    assert refused.value.existing == first
    assert bank.count() == 1


def test_ideas_without_a_change_are_told_apart_by_their_words(bank):
    bank.add(Proposal("one", "", ""))
    bank.add(Proposal("two", "", ""))
    with pytest.raises(Duplicate):
        bank.add(Proposal("two", "", " \n"))


def test_the_score_of_an_idea_is_the_mean_of_its_runs_on_the_search_split(bank):
    idea = ended(bank, "d", 1.0, 3.0)
    bank.enqueue(idea.id, SELECTION, 9)
    bank.finish(bank.claim().id, Outcome(State.OK, 100.0))
    assert bank.idea(idea.id).score == 2.0


def test_one_failed_run_is_the_state_of_the_idea(bank):
    number = bank.add(Proposal("d", "", "d"))
    for seed, outcome in enumerate((Outcome(State.OK, 1.0), Outcome(State.CRASHED, reason="x"))):
        bank.enqueue(number, SEARCH, seed)
        bank.finish(bank.claim().id, outcome)
    idea = bank.conclude(number)
    assert (idea.state, idea.reason, idea.score) == ("crashed", "x", None)


def test_the_last_attempt_of_a_seed_counts(bank):
    number = bank.add(Proposal("d", "", "d"))
    for attempt, outcome in enumerate((Outcome(State.INFRASTRUCTURE), Outcome(State.OK, 5.0))):
        bank.enqueue(number, SEARCH, 7, attempt)
        bank.finish(bank.claim().id, outcome)
    assert bank.conclude(number).score == 5.0


def test_an_idea_is_not_concluded_while_a_run_is_open(bank):
    number = bank.add(Proposal("d", "", "d"))
    bank.enqueue(number, SEARCH, 0)
    assert bank.conclude(number) is None
    assert bank.claim().state == RUNNING
    assert bank.conclude(number) is None
    assert bank.idea(number).state == RUNNING


@pytest.mark.parametrize(("direction", "order"), [("maximize", [3, 2, 1]), ("minimize", [1, 2, 3])])
def test_best_goes_by_the_metric_s_direction(bank, direction, order):
    bank.set("direction", direction)
    for score in (1.0, 2.0, 3.0):
        ended(bank, f"d{score}", score)
    ended(bank, "failed", 0.0, state=State.CRASHED)
    assert [idea.id for idea in bank.best(9)] == order
    assert [idea.id for idea in bank.best(9, above=2.0)] == order[:1]


def test_no_run_is_claimed_by_two(tmp_path, bank):
    for number in range(1, 41):
        bank.enqueue(bank.add(Proposal(f"{number}", "", f"{number}")), SEARCH, 0)
    claimed = []

    def claim():
        with Bank(tmp_path / "ideas.db", write=True) as own:
            while run := own.claim():
                claimed.append(run.id)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(set(claimed)) == 40


def test_only_the_splits_that_are_asked_for_are_claimed(bank):
    bank.enqueue(0, SEARCH, 0)
    bank.enqueue(0, FINAL, 0)
    assert bank.claim(()) is None
    assert bank.claim((SELECTION, FINAL)).split == FINAL
    assert bank.claim((SELECTION, FINAL)) is None


def test_the_same_run_is_in_the_queue_once(bank):
    assert bank.enqueue(0, SEARCH, 5) is not None
    assert bank.enqueue(0, SEARCH, 5) is None
    assert len(bank.open_runs(QUEUED)) == 1


def test_what_is_written_at_once_is_there_as_a_whole_or_not_at_all(bank):
    with pytest.raises(RuntimeError), bank.at_once():
        bank.add(Proposal("a", "", "a"))
        bank.set("key", 1)
        raise RuntimeError
    assert bank.count() == 0
    assert bank.get("key") is None


def test_a_reader_cannot_write(tmp_path, bank):
    with Bank(tmp_path / "ideas.db") as reader, pytest.raises(sqlite3.OperationalError):
        reader.set("key", 1)


def test_texts_that_no_file_can_hold_are_kept_as_far_as_they_can_be(bank):
    number = bank.add(Proposal("half \ud800 character", "\0", "d", context="shown \udfff"))
    assert bank.idea(number).title == "half ? character"


def test_a_context_is_stored_once(bank):
    for diff in "ab":
        bank.add(Proposal(diff, "", diff, context="what was shown"))
    shas = {bank.idea(number).context for number in (1, 2)}
    assert [bank.context(sha) for sha in shas] == ["what was shown"]


def test_no_bank_and_what_is_no_bank_are_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no such bank"):
        Bank(tmp_path / "ideas.db")
    (tmp_path / "ideas.db").write_text("words" * 1000)
    with pytest.raises(UserError, match="not a bank"):
        Bank(tmp_path / "ideas.db")
