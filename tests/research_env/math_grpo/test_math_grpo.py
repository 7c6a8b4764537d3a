"""The environment as the referee runs it, with its tiny budget, from a model that knows nothing."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research_env import env, referee
from research_env.envs.math_grpo import prepare
from research_env.outcome import State
from research_env.sandbox.bubblewrap import bubblewrap
from sbp_jax.errors import UserError

MATH_GRPO = env.SHIPPED / "math_grpo"
OTHER_MODEL = """--- a/model.py
+++ b/model.py
@@ -13,3 +13,3 @@
 CHARACTERS = "0123456789+=\\n"
-PROMPT, ANSWER = len("23+58="), len("180")
+PROMPT, ANSWER = len("23+58="), len("1800")
 CONTEXT = PROMPT + ANSWER
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("env") / "math_grpo"
    shutil.copytree(MATH_GRPO, made, ignore=shutil.ignore_patterns("prepared", "__pycache__"))
    return made


def test_without_its_data_it_says_how_to_make_them(folder):
    with pytest.raises(UserError, match=r"python -m research_env\.envs\.math_grpo\.prepare"):
        env.load(str(folder))


def test_its_model_answers_a_character_at_a_time():
    model = prepare.model_module()
    parameters = jax.tree.map(lambda x: jnp.asarray(3 * x), model.initialize(1))
    prompts = model.encode(["23+58=", "99+01="])
    given = np.asarray(model.answers(parameters, prompts, jax.random.key(0), 0.0))
    tokens = prompts
    for place in range(model.ANSWER):
        there = np.asarray(model.logits(parameters, tokens))[:, -1]
        np.testing.assert_array_equal(there.argmax(-1), given[:, place])
        tokens = np.concatenate([tokens, given[:, place : place + 1]], axis=1)
    assert model.decode(model.encode(["12+34="])) == ["12+34="]


def test_problems_are_disjoint_and_right(tmp_path):
    problems = prepare.write_problems(tmp_path)
    parts = [problems] + [
        (tmp_path / "splits" / split / "problems.txt").read_text().split()
        for split in prepare.SPLITS
    ]
    everything = [line for part in parts for line in part]
    assert len(set(everything)) == len(everything) == 10_000
    for line in everything[:200]:
        sums, _, answer = line.partition("=")
        a, b = sums.split("+")
        assert int(answer[::-1]) == int(a) + int(b)


@pytest.mark.slow
def test_the_baseline_is_scored_and_the_model_cannot_be_exchanged(folder, tmp_path):
    prepare.write_problems(folder / "prepared")
    model = prepare.model_module()
    model.save(model.initialize(0), folder / "prepared" / "data" / "warm_up.npz")
    environment = env.load(str(folder))

    def judge(diff):
        place = tmp_path / "run"
        return referee.judge(environment, diff, "search", 1, bubblewrap, place, smoke=True)

    honest = judge("")
    assert honest.state is State.OK, honest
    assert 0 <= honest.score < 0.2 and honest.metrics["problems"] == 1000
    assert judge(OTHER_MODEL).state is State.TAMPERED
