"""The page on environments shows the template as it is."""

import re
from pathlib import Path

from research_env import cheats
from research_env.env import SHIPPED, load

PAGE = (Path(__file__).parents[2] / "docs" / "research_environments.md").read_text()


def test_the_files_that_the_page_shows_are_the_template_s():
    shown = re.findall(r"```(?:toml|python)\n(.*?)```", PAGE, flags=re.DOTALL)
    template = SHIPPED / "template"
    for path in ("env.toml", "code/train.py", "eval/score.py"):
        assert (template / path).read_text() in shown, path


def test_the_page_counts_the_cheats_right():
    diffs = len(list(cheats.changes(load("template"), 0.0)))
    assert (diffs, len(cheats.ATTACKS)) == (20, 25)
    assert "45 candidates" in PAGE and "Twenty diffs" in PAGE and "Twenty-five programs" in PAGE
