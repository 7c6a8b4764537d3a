"""Every known cheat is a fixture, judged as any candidate is, and none may help."""

import pytest

from research_env import cheats
from research_env.audit import Audit
from research_env.env import load


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    from research_env import sandbox

    folder = tmp_path_factory.mktemp("audit")
    audit = Audit(load("template"), sandbox.factory("bubblewrap"), folder)
    assert all(finding.sound for finding in audit.honest_runs(3))
    return audit


@pytest.fixture(scope="module")
def told(audit):
    with audit.told() as told:
        yield told


CHANGES = [name for name, _ in cheats.changes(load("template"), 0.0)]


def test_there_are_more_than_twenty_and_no_two_of_one_name():
    names = [attack.name for attack in cheats.ATTACKS] + CHANGES
    assert len(set(names)) == len(names) > 20


@pytest.mark.parametrize("name", CHANGES)
def test_a_diff_that_reaches_elsewhere_never_runs(audit, name):
    finding = audit.change(name, dict(cheats.changes(audit.environment, 0.0))[name])
    assert finding.sound, str(finding)


@pytest.mark.parametrize("attack", cheats.ATTACKS, ids=lambda attack: attack.name)
def test_a_program_that_cheats_is_caught_or_gains_nothing(audit, told, attack):
    finding = audit.attack(attack, told)
    assert finding.sound, str(finding)


@pytest.mark.parametrize(
    ("path", "text"),
    [("train.py", '"""Trains."""\nfrom __future__ import annotations\nimport os\n'),
     ("train.py", "import os\n"), ("run.sh", "#!/bin/sh\nset -e\n"), ("run.sh", "set -e\n")],
)  # fmt: skip
def test_an_attack_goes_before_the_program_and_after_what_must_be_first(path, text):
    source = "print('first')\n"
    changed = cheats.at_the_start(path, text, source)
    if path.endswith(".py"):
        compile(changed, path, "exec")
        assert changed.index("first") < changed.index("import os")
    else:
        assert changed.startswith("#!/bin/sh\n") == text.startswith("#!")
        assert changed.index("first") < changed.index("set -e")
    assert cheats.at_the_start("weights.json", "{}", source) is None
