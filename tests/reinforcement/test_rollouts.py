"""Texts are drawn the same whatever stands beside them; rewards are safe; a run can be killed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from sbp_jax.config import DataConfig, EngineConfig, Experiment, GrpoConfig, ModelConfig, to_json
from sbp_jax.data import addition
from sbp_jax.data.tokenizer import train_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference.sampler import Sampler
from sbp_jax.model import transformer
from sbp_jax.reinforcement.problems import AnswerReward, Problem, read_problems
from sbp_jax.reinforcement.rollouts import draw, rows
from sbp_jax.reinforcement.run import grpo, grpo_run, of_step
from sbp_jax.training.checkpoint import load_model, restore_params, save_params

ROOT = Path(__file__).parents[2]
MODEL = ModelConfig(
    num_layers=1, d_model=32, num_heads=2, num_kv_heads=2, head_dim=16, d_ff=64, vocab_size=274
)
GRPO = GrpoConfig(
    steps=6, prompts=4, group=4, batch_size=8, max_tokens=6, peak_lr=1e-3, passes=2, every_steps=3,
    evaluated=10, kl=0.01,
)  # fmt: skip


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A run whose model knows nothing yet."""
    folder = tmp_path_factory.mktemp("policy") / "run"
    texts = [f"{addition.question(a, b)} {a + b}" for a, b in addition.SUMS]
    train_tokenizer(texts, MODEL.vocab_size, folder / "tokenizer")
    save_params(folder, transformer.init_params(MODEL, 0))
    experiment = Experiment(model=MODEL, data=DataConfig(sequence_length=32))
    (folder / "config.json").write_text(to_json(experiment))
    return folder


def experiment(policy, **changes):
    e = Experiment(
        model=MODEL,
        data=DataConfig(sequence_length=32),
        engine=EngineConfig(batch_size=16),
        grpo=dataclasses.replace(GRPO, **changes),
    )
    e = dataclasses.replace(e, train=dataclasses.replace(e.train, tensorboard=False))
    return grpo_run(e, str(policy))


def digits(texts):
    """A reward that a model without knowledge can have more or less of."""
    return [sum(c.isdigit() for c in text) / 6 for _, text in texts]


def test_a_text_depends_on_its_number_and_not_on_what_is_drawn_beside_it(policy):
    _, params, tokenizer = load_model(policy)
    sampler = Sampler(MODEL, params, tokenizer, max_length=32, batch_size=16)
    problems = read_problems("addition")[:5]
    few, found = (
        draw(sampler, some, GRPO, "{question}", group=3, temperature=1.0, seed="0/1")
        for some in (problems[:2], problems)
    )
    assert found[:6] == few
    assert [one.problem for one in found] == [p for p in problems for _ in range(3)]
    assert len({one.text for one in found}) > 8
    arrays = rows(found, 24)
    for i, one in enumerate(found):
        at = np.flatnonzero(arrays["drawn"][i])
        assert tuple(arrays["targets"][i, at]) == one.tokens
        assert len(at) == len(one.logprobs) and at[0] == len(one.prompt) - 1
        assert tuple(arrays["inputs"][i, : len(one.prompt)]) == one.prompt


def _anywhere():
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda _: device, transformer.param_shapes(MODEL))


def test_steps_take_all_problems_before_any_comes_again():
    problems = [Problem(str(i), "") for i in range(10)]
    taken = [p for step in range(5) for p in of_step(problems, 4, step, seed=1)]
    assert sorted(taken[:10]) == sorted(taken[10:]) == sorted(problems)
    assert taken[:10] != taken[10:]
    assert of_step(problems, 4, 3, seed=1) == taken[12:16]


def test_a_reward_asks_for_the_form_and_the_answer():
    texts = [
        ("1/2", "<answer>0.5</answer>", 1.0),
        ("1/2", r"so <answer> \frac{1}{2} </answer>", 1.0),
        ("1/2", "0.5", 0.0),
        ("1/2", "<answer>0.5</answer> I think", 0.0),
        ("x^2+2x+1", "<answer>(x+1)^2</answer>", 1.0),
        ("3", "<answer>9**9**9**9</answer>", 0.0),
        ("3", "<answer></answer>", 0.0),
    ]
    reward = AnswerReward(r".*<answer>(.*)</answer>")
    found = reward([(Problem("", right), text) for right, text, _ in texts])
    reward.close()
    assert found == [expected for _, _, expected in texts]


def test_problems_of_a_file_and_what_is_wrong_with_one(tmp_path):
    path = tmp_path / "problems.jsonl"
    lines = [
        {"question": "2+2?", "answer": "It is four. #### 4"},
        {"problem": "half?", "solution": r"We get $\boxed{\frac12}$."},
        {"question": "3?\u2028", "answer": 3},
    ]
    plainly = [json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(plainly) + "\n\n", encoding="utf-8")
    assert [problem.answer for problem in read_problems(str(path))] == ["4", r"\frac12", "3"]
    for bad, said in (
        ("{", "line 4 is no JSON object"),
        ('{"question": "a"}', "line 4 is no JSON object with a question and an answer"),
        ('{"question": " ", "answer": "1"}', "line 4 has an empty question"),
        ('{"question": "4?", "answer": null}', "line 4 has an empty question or answer"),
    ):
        path.write_text("\n".join([*map(json.dumps, lines), bad]))
        with pytest.raises(UserError, match=said):
            read_problems(str(path))
    with pytest.raises(UserError, match="no such file"):
        read_problems(str(tmp_path / "missing.jsonl"))


def test_what_cannot_be_is_refused_before_any_work(policy, tmp_path):
    with pytest.raises(UserError, match="batch_size=7 does not divide the 16 texts"):
        experiment(policy, batch_size=7)
    with pytest.raises(UserError, match="--init_from is missing"):
        grpo_run(Experiment(), "")
    with pytest.raises(UserError, match="one group says where the answer is"):
        grpo(experiment(policy, answer=".*"), tmp_path / "run")
    with pytest.raises(UserError, match="max_tokens=30 are more than config.data.sequence_length"):
        grpo(experiment(policy, max_tokens=30), tmp_path / "long", digits)
    assert not (tmp_path / "long" / "summary.json").exists()


def test_rewards_that_are_no_numbers_count_as_none_and_are_told(policy, tmp_path):
    def broken(texts):
        return [float("nan") if i % 3 == 0 else value for i, value in enumerate(digits(texts))]

    summary = grpo(experiment(policy, steps=1), tmp_path, broken)
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["bad_rewards"] == 6 and line["skipped"] == 0
    assert np.isfinite(summary["reward"])


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import test_rollouts as this

this.grpo(this.saved_often({policy!r}), {workdir!r}, this.digits)
"""


def saved_often(policy):
    e = experiment(policy)
    return dataclasses.replace(e, checkpoint=dataclasses.replace(e.checkpoint, every_steps=2))


def test_a_killed_run_goes_on_to_the_same_bits(policy, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    e = saved_often(policy)
    summary = grpo(e, whole, digits)
    assert grpo(e, whole, digits) == summary  # finished
    folder = str(Path(__file__).parent)
    script = SCRIPT.format(folder=folder, policy=str(policy), workdir=str(killed))
    for reached in ("metrics.jsonl", "checkpoints/8"):  # two steps of four updates
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
        while not (killed / reached).exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (killed / "summary.json").exists()
    again = grpo(e, killed, digits)
    assert again["held_out_rewards"] == summary["held_out_rewards"]
    shapes = transformer.param_shapes(MODEL)
    ends = [restore_params(folder, shapes, _anywhere())[0] for folder in (whole, killed)]
    jax.tree.map(np.testing.assert_array_equal, *ends)
    timed = ("drawn_per_s", "learnt_per_s")
    lines = [
        [
            {name: value for name, value in json.loads(line).items() if name not in timed}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (whole, killed)
    ]
    assert lines[0] == lines[1]
