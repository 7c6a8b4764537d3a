"""The environment as the referee runs it, with its tiny budget, on a text made for the test."""

import shutil

import numpy as np
import pytest

from research_env import env, referee
from research_env.envs.nanogpt import prepare
from research_env.outcome import State
from research_env.sandbox.bubblewrap import bubblewrap
from sbp_jax.errors import UserError

NANOGPT = env.SHIPPED / "nanogpt"


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "nanogpt"
    shutil.copytree(NANOGPT, made, ignore=shutil.ignore_patterns("prepared", "__pycache__"))
    return made


def test_without_its_data_it_says_how_to_make_them(folder):
    with pytest.raises(UserError, match=r"python -m research_env\.envs\.nanogpt\.prepare"):
        env.load(str(folder))
    with pytest.raises(UserError, match=r"--size=full"):
        env.load(str(folder), "full")


@pytest.mark.slow
def test_the_baseline_is_scored_and_a_look_at_the_next_token_is_invalid(folder, tmp_path):
    text = np.random.default_rng(0).integers(0, 256, 120_000)
    prepare.write(folder / "prepared" / "laptop", [text], text[:100_000], prepare.SHAPES["laptop"])
    environment = env.load(str(folder))

    def judge(diff):
        place = tmp_path / "run"
        return referee.judge(environment, diff, "search", 1, bubblewrap, place, smoke=True)

    honest = judge("")
    assert honest.state is State.OK, honest
    assert honest.score == pytest.approx(np.log(256), abs=0.1)
    assert honest.metrics["probe_difference"] < 1e-3
    leaking = judge((NANOGPT / "cheats" / "add_the_next_token.diff").read_text())
    assert leaking.state is State.INVALID_METRIC, leaking
    assert "depend on later tokens" in leaking.reason
