"""Environments are read from their folders; a mistake names file, key and remedy."""

import pytest

from research_env.env import SHIPPED, load, seed_of
from sbp_jax.errors import UserError


def shipped():
    return sorted(path.parent.name for path in SHIPPED.glob("*/env.toml"))


def test_an_environment_tells_a_researcher_the_task_and_the_code_but_not_the_evaluator(
    make_environment,
):
    environment = load(str(make_environment()))
    context = environment.context()
    for told in ("Name a number.", "nearness, to maximize", "guess.sh", "mkdir -p artifact"):
        assert told in context
    for secret in ("scored", "secret", "0.6"):
        assert secret not in context
    assert environment.files(editable=True) == ["guess.sh"]
    assert environment.files(editable=False) == ["run.sh"]


@pytest.mark.parametrize("name", shipped())
def test_what_ships_can_be_read_in_every_size_that_needs_no_preparation(name):
    try:
        environment = load(name)
    except UserError as error:
        assert "make it by" in str(error)  # its data is prepared by a command
    else:
        assert environment.name and environment.context()


def test_a_size_overrides_what_it_names_and_no_more(make_environment):
    folder = make_environment()
    sizes = "[sizes.laptop.run.limits]\nmemory_mb = 100\n[sizes.full.environment]\nSTEPS = 7\n"
    with (folder / "env.toml").open("a") as file:
        file.write(sizes)
    laptop, full = load(str(folder)), load(str(folder), "full")
    assert (laptop.run.limits.memory_mb, laptop.run.limits.wall_seconds) == (100, 20)
    assert (full.run.limits.memory_mb, full.environment) == (512, {"STEPS": "7"})
    assert laptop.fingerprint != full.fingerprint
    with pytest.raises(UserError, match=r"sizes\.huge: is missing; there are \['laptop', 'full'\]"):
        load(str(folder), "huge")


@pytest.mark.parametrize("path", ["code/run.sh", "eval/score.py", "eval/splits/final/number"])
def test_its_fingerprint_changes_with_code_and_evaluator(make_environment, path):
    folder = make_environment()
    before = load(str(folder)).fingerprint
    assert load(str(folder)).fingerprint == before
    (folder / path).write_text((folder / path).read_text() + "\n# more\n")
    assert load(str(folder)).fingerprint != before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "guess"', "", "name: is missing"),
        ("[metric]", "[metrik]", "metric: is missing"),
        ('"maximize"', '"up"', "metric.direction: must be 'maximize' or 'minimize', not 'up'"),
        ("[-1000.0, 1.0]", "[1.0, 0.0]", "metric.valid: the first must be less"),
        ("[-1000.0, 1.0]", "[1.0]", "metric.valid: must be a list of 2 numbers"),
        ('["guess.sh"]', '"guess.sh"', "paths.editable: must be a list of texts"),
        ('["guess.sh"]', '["../eval/*"]', "paths.editable: '../eval/.'"),
        ('["guess.sh"]', '["gues.sh"]', "paths.editable: .*match no file"),
        ("memory_mb", "memory", "run.limits.memory: unknown key; known here: .*memory_mb"),
        ("memory_mb = 512", "memory_mb = 0.5", "run.limits.memory_mb: must be a whole number"),
        ("wall_seconds = 20, m", "wall_seconds = 0, m", "wall_seconds: must be more than 0"),
        ('command = "bash run.sh"', "command = 3", "run.command: must be a text"),
        ("[score]", '[splits]\nfinal = "search"\n[score]', "splits.final: the three splits must"),
        ("[score]", '[splits]\nfinal = "../x"\n[score]', "splits.final: must be a plain name"),
        ("[score]", "[seeds]\nselection = 1\n[score]", "seeds.selection: must be 2 or more"),
        ("[score]", "[smoke]\nSTEPS = 1\n[score]", "smoke.wall_seconds: is missing"),
        ("[score]", "[environment]\nSTEPS = [1]\n[score]", "environment.STEPS: must be a text"),
        ("[score]", "[scores]", "scores: unknown key"),
        ("[score]", "[score", "cannot be read"),
        ("[score]", '[predict]\ncommand = "x"\n[score]', r"prepare.py: is missing: \[predict\]"),
        ('["guess.sh"]', '["guess.sh"]\ndata = "d"\nprepare = "make d"', "make it by: make d"),
    ],
)
def test_a_mistake_in_env_toml_is_told_by_file_and_key(make_environment, old, new, message):
    folder = make_environment()
    text = (folder / "env.toml").read_text()
    assert old in text
    (folder / "env.toml").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message) as error:
        load(str(folder))
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_a_folder_that_is_none_and_parts_that_lack_are_told(make_environment, tmp_path):
    with pytest.raises(UserError, match="no such environment; a folder, or one of .*template"):
        load("tamplate")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no such file; an environment is a folder with one"):
        load(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="score.py: is missing"):
        load(str(make_environment(**{"eval/score.py": None})))


def test_links_in_the_code_are_refused(make_environment):
    folder = make_environment()
    (folder / "code" / "labels").symlink_to(folder / "eval")
    with pytest.raises(UserError, match="labels: is a link"):
        load(str(folder))


def test_no_two_runs_share_a_seed():
    runs = [(s, i, split, k) for s in range(3) for i in range(50) for split in "ab" for k in (0, 1)]
    seeds = {seed_of(*run) for run in runs}
    assert len(seeds) == len(runs)
    assert all(0 <= seed < 2**31 for seed in seeds)
