import dataclasses
import itertools
import shutil

import pytest

from research_env.bank import FINAL, SEARCH, SELECTION, Bank
from research_env.env import SHIPPED
from research_env.researcher.interface import BudgetSpent, Proposal
from research_env.researcher.mutator import unified
from research_env.running.settings import Settings
from research_env.search import start
from sbp_jax.errors import UserError

CODE = (SHIPPED / "synthetic" / "code" / "settings.py").read_text()


def change(*pairs):
    """The diff that replaces words of the settings."""
    changed = CODE
    for old, new in pairs:
        assert old in changed
        changed = changed.replace(old, new)
    return unified({"settings.py": CODE}, {"settings.py": changed})


GOOD = change(('"sgd"', '"muon"'))
CRASHES = change(('"sgd"', '"none"'))


class Scripted:
    """Proposes these in their order, then nothing; `repairs` are by the diff that failed."""

    def __init__(self, *diffs, repairs=None, cost=0.0):
        self._diffs, self._repairs, self._cost = iter(diffs), repairs or {}, cost
        self.wants, self.errors = [], []

    def propose(self, bank, want):
        self.wants.append(want)
        diff = next(self._diffs, None)
        if diff is None:
            return None
        return Proposal(f"idea for {diff[:20]}", "", diff, cost=self._cost, tokens=7)

    def repair(self, proposal, error):
        self.errors.append(error)
        diff = self._repairs.get(proposal.diff)
        return diff and proposal._replace(diff=diff, cost=self._cost, tokens=1)


def rates(count):
    return [change(("0.001", f"0.00{number}1")) for number in range(1, count + 1)]


def searched(tmp_path, researcher=None, **changes):
    settings = Settings(env="synthetic", workdir=str(tmp_path), ideas=3, seed=1)
    start(dataclasses.replace(settings, **changes), researcher)
    return Bank(tmp_path / "ideas.db")


def test_an_improvement_is_confirmed_on_fresh_seeds_and_two_other_splits(tmp_path, capsys):
    with searched(tmp_path, Scripted(*rates(2), GOOD)) as bank:
        verdict = bank.get("verdict")
        assert (verdict["significant"], verdict["idea"]) == (True, 3)
        assert verdict["at_least"] > 0
        assert bank.idea(3).promoted
        seeds = [{run.seed for run in bank.runs(3, split)} for split in (SEARCH, SELECTION, FINAL)]
        assert [len(s) for s in seeds] == [1, 5, 5]
        assert len(set.union(*seeds)) == 11
        assert len(bank.runs(0, FINAL)) == 5
        # In turns, so that a machine that changes its pace does so for both.
        for split, ideas in ((SELECTION, bank.get("finalists")), (FINAL, [3])):
            runs = sorted(run for number in [0, *ideas] for run in bank.runs(number, split))
            started = [run.idea for run in sorted(runs, key=lambda run: run.started)]
            assert started[: len(ideas) + 1] == [0, *sorted(ideas)]
            assert started[-1] != 0
        assert not bank.runs(1, FINAL)
    printed = capsys.readouterr().out
    assert "idea 3: better by 0." in printed
    assert (tmp_path / "report" / "index.html").exists()


def test_where_nothing_helps_nothing_is_promoted(tmp_path, capsys):
    # With one slot, so that the same seed draws the same luck each time.
    with searched(tmp_path, size="null", ideas=30, slots=1) as bank:
        assert bank.get("verdict")["significant"] is False
        assert bank.get("champion") is None
        assert len(bank.get("finalists")) == 3
        best = bank.best(1)[0]
        assert best.score > bank.idea(0).score + bank.get("noise")  # and yet
    assert "none of 3 was significant" in capsys.readouterr().out


def test_a_patch_that_does_not_apply_and_a_run_that_crashes_are_repaired(tmp_path):
    bad = GOOD.replace("-OPTIMIZER", "-OPTIMISER")
    researcher = Scripted(bad, repairs={bad: CRASHES, CRASHES: GOOD}, cost=0.5)
    with searched(tmp_path, researcher, ideas=1) as bank:
        idea = bank.idea(1)
        assert (idea.state, idea.diff) == ("ok", GOOD)
        assert (idea.cost, idea.tokens) == (1.5, 9)
        assert [run.state for run in bank.runs(1, SEARCH)] == ["patch_failed", "crashed", "ok"]
        assert [repair[0] for repair in bank.repairs(1)] == [1, 2]
    assert researcher.errors[0].startswith("patch_failed: ")
    assert "ValueError: unknown OPTIMIZER 'none'" in researcher.errors[1]


def test_repairs_end_and_the_failure_stands(tmp_path):
    others = [change(('"sgd"', f'"none{number}"')) for number in range(3)]
    repairs = dict(itertools.pairwise([CRASHES, *others]))
    with searched(tmp_path, Scripted(CRASHES, repairs=repairs), ideas=1) as bank:
        assert bank.idea(1).state == "crashed"
        assert len(bank.repairs(1)) == 2
        assert bank.get("verdict")["significant"] is False


def test_what_must_not_be_changed_is_tampering_and_is_not_repaired(tmp_path):
    new = "--- /dev/null\n+++ b/sitecustomize.py\n@@ -0,0 +1 @@\n+x = 1\n"
    researcher = Scripted(new)
    with searched(tmp_path, researcher, ideas=1) as bank:
        assert bank.idea(1).state in ("tampered", "patch_failed")


def test_the_same_change_is_not_run_again_and_wishes_without_ideas_end_the_search(tmp_path):
    researcher = Scripted(GOOD, GOOD, GOOD, cost=1.0)
    with searched(tmp_path, researcher, ideas=5) as bank:
        assert bank.count() == 1
        assert bank.get("refused") == 2
        assert bank.get("refused_cost") == 2.0
        assert bank.get("phase") == "done"
    assert [want.wish for want in researcher.wants] == list(range(len(researcher.wants)))


def test_the_cap_on_cost_ends_the_search_for_ideas(tmp_path):
    with searched(tmp_path, Scripted(*rates(9), cost=1.0), ideas=9, max_cost=3.0, slots=1) as bank:
        assert bank.count() == 3
        assert bank.get("verdict")


def test_a_researcher_whose_budget_is_spent_ends_the_search_for_ideas(tmp_path):
    class Spent(Scripted):
        def propose(self, bank, want):
            if len(self.wants) == 2:
                raise BudgetSpent
            return super().propose(bank, want)

    with searched(tmp_path, Spent(*rates(9)), ideas=9, slots=1) as bank:
        assert bank.count() == 2
        assert bank.get("verdict")


def test_the_cap_on_time_leaves_enough_for_the_confirmation(tmp_path):
    settings = {"size": "slow", "ideas": 10_000, "slots": 16, "max_hours": 12 / 3600}
    with searched(tmp_path, **settings) as bank:
        assert bank.count() < 10_000
        assert bank.get("phase") == "done"
        assert not bank.open_runs()
        assert bool(bank.runs(0, SELECTION)) == bool(bank.get("finalists"))


def test_slots_are_filled_as_they_become_free_without_barriers(tmp_path):
    with searched(tmp_path, size="slow", ideas=30, slots=4) as bank:
        runs = [run for idea in bank.ideas() for run in bank.runs(idea.id, SEARCH)]
    events = sorted([(r.started, 1) for r in runs] + [(r.finished, -1) for r in runs])
    running = list(itertools.accumulate(step for _, step in events))
    assert max(running) == 4
    # Some run outlasted whole rounds of others: with barriers it would outlast three at most.
    passed = [sum(r.started < o.started and o.finished < r.finished for o in runs) for r in runs]
    assert max(passed) > 3


def test_a_run_that_the_harness_failed_is_tried_again_and_the_idea_not_blamed(tmp_path):
    folder = tmp_path / "env"
    shutil.copytree(SHIPPED / "synthetic", folder)
    text = (folder / "env.toml").read_text().replace("NOISE = 0.01", 'NOISE = "unreadable"')
    (folder / "env.toml").write_text(text)
    with pytest.raises(UserError, match="in a row failed for reasons of the harness, .*ValueError"):
        searched(tmp_path / "w", env=str(folder), slots=2)
    with Bank(tmp_path / "w" / "ideas.db") as bank:
        failed = [run for run in bank.runs(0) if run.state == "infrastructure"]
        assert len(failed) >= 8
        assert max(run.attempt for run in bank.runs(0)) == 2


def test_a_baseline_that_fails_is_the_environment_s_fault(tmp_path):
    folder = tmp_path / "env"
    shutil.copytree(SHIPPED / "synthetic", folder)
    (folder / "code" / "settings.py").write_text(CODE.replace('"sgd"', '"none"'))
    with pytest.raises(UserError, match="the baseline itself ended as crashed: .*'none'"):
        searched(tmp_path / "w", env=str(folder))


def test_a_folder_holds_one_search(tmp_path):
    searched(tmp_path, ideas=2).close()
    for changes, says in (
        ({"seed": 2}, "--seed=2: .* take another --workdir"),
        ({"strategy": "greedy"}, "--strategy=greedy"),
        ({"size": "null"}, "--size=null"),
        ({"ideas": 99}, "has its verdict"),
    ):
        with pytest.raises(UserError, match=says):
            searched(tmp_path, **{"ideas": 2, **changes})
    with searched(tmp_path, ideas=2) as bank:  # does nothing, and says the same
        assert len(bank.runs(1, SEARCH)) == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"unsafe": True}, "--unsafe is of no use"),
        ({"strategy": "magic"}, "no such strategy"),
        ({"env": "nowhere"}, "no such environment"),
        ({"env": "template", "sandbox": "inline"}, "has to be run; choose a --sandbox"),
        ({"env": "template", "sandbox": "ray"}, "RAY_ADDRESS is missing"),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path, changes, says):
    with pytest.raises(UserError, match=says):
        searched(tmp_path, **changes)
