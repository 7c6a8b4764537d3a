"""The whole of it, among ideas of which none has an effect."""

import subprocess
import sys

from research_env.bank import Bank


def test_a_search_of_256_ideas_that_change_nothing_finds_a_best_one_and_promotes_none(tmp_path):
    command = [sys.executable, "-m", "research_env.search", "--env=synthetic", "--size=null"]
    command += ["--ideas=256", "--seed=1", f"--workdir={tmp_path / 'null'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Bank(tmp_path / "null" / "ideas.db") as bank:
        (best,) = bank.best(1)
        assert best.score > bank.idea(0).score  # so the rule of the best score would be fooled
        assert bank.get("verdict")["significant"] is False
        assert len(bank.get("finalists")) == 3  # which had their chance, on fresh seeds
        assert bank.count() == 256
