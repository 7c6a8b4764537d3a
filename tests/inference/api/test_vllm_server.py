"""The engine that asks servers, against vLLM's own server on a small model that we exported."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from vllm_server import SOURCE, serving, small_run

from sbp_jax.config import ApiConfig
from sbp_jax.inference.api import Api
from sbp_jax.inference.engine import Request, Sampling
from sbp_jax.inference.sampler import Sampler
from sbp_jax.training.checkpoint import load_model

pytestmark = [pytest.mark.slow, pytest.mark.vllm]
CONTEXT = 128
PROMPTS = [SOURCE[i : i + 40] for i in range(0, 8 * 97, 97)]
GREEDY = Sampling(max_tokens=24, temperature=0.0)
SCHEMA = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
    "required": ["sure", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    random = np.random.default_rng(0)

    def draw(tokenizer, name, leaf):
        if name.endswith("norm"):
            value = random.uniform(0.3, 2.0, leaf.shape)
        else:
            value = random.normal(size=leaf.shape) * (0.3 if name == "embed" else 0.2)
        if name == "embed":  # bytes of broken UTF-8, of which vLLM makes other texts
            value[[i for i in range(500) if "\ufffd" in tokenizer.decode([i])]] *= 0.01
        return jnp.asarray(value, np.float32)

    shape = {"num_layers": 2, "d_model": 64, "num_heads": 4, "num_kv_heads": 2}
    folder = tmp_path_factory.mktemp("api") / "run"
    return small_run(folder, CONTEXT, draw, head_dim=32, d_ff=96, **shape)


@pytest.fixture(scope="module")
def url(run):
    structured = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})
    with serving(run, CONTEXT, "--structured-outputs-config", structured) as address:
        yield address


def answers(url, requests):
    api = Api(ApiConfig(url=url, model="small"))
    return {completion.id: completion for completion in api.generate(requests)}


def test_greedy_tokens_are_those_of_the_jax_sampler(url, run):
    model, params, tokenizer = load_model(run)
    ours = Sampler(model, params, tokenizer, batch_size=8, max_length=CONTEXT)
    expected = {c.id: c for c in ours.generate([Request(p, p, GREEDY) for p in PROMPTS])}
    assert len({c.tokens for c in expected.values()}) > len(PROMPTS) / 2
    both = Sampling(max_tokens=24, temperature=0.0, logprobs=True)
    by_text = answers(url, [Request(p, p, GREEDY) for p in PROMPTS])
    by_ids = answers(
        url,
        [Request(p, (tokenizer.bos_id, *tokenizer.encode([p])[0]), both) for p in PROMPTS],
    )
    for prompt in PROMPTS:
        want, got = expected[prompt], by_ids[prompt]
        assert got.tokens == want.tokens
        assert got[2:5] == by_text[prompt][2:5] == want[2:5]  # how it ended, and the counts
        assert got.text == by_text[prompt].text == want.text
        assert len(got.logprobs) == got.new_tokens and max(got.logprobs) < 0


def test_64_at_once_are_the_same_as_one_after_the_other_in_another_order(url):
    warm = Sampling(max_tokens=16, temperature=0.8, top_p=0.95, top_k=50)
    requests = [Request(str(i), PROMPTS[i % 8], warm, seed=i) for i in range(64)]
    together = answers(url, requests)
    assert len({c.text for c in together.values()}) > 50
    some = answers(url, requests[:40:5][::-1])
    assert {name: together[name].text for name in some} == {n: c.text for n, c in some.items()}


def test_a_token_of_the_callers_ends_a_text(url, run):
    [free] = answers(url, [Request("a", (1, 60, 70), GREEDY)]).values()
    stop = free.tokens[3]
    before = free.tokens[: free.tokens.index(stop)]
    sampling = Sampling(max_tokens=24, temperature=0.0, stop_ids=(stop,))
    [stopped] = answers(url, [Request("a", (1, 60, 70), sampling)]).values()
    assert (stopped.tokens, stopped.finish_reason) == (before, "stop")
    assert stopped.text == load_model(run)[2].decode(before)
    assert stopped.new_tokens == len(before) + 1


def test_stop_texts_end_a_text_where_they_do_in_the_jax_sampler(url, run):
    model, params, tokenizer = load_model(run)
    ours = Sampler(model, params, tokenizer, batch_size=8, max_length=CONTEXT)
    free = {c.id: c for c in ours.generate([Request(p, p, GREEDY) for p in PROMPTS])}
    requests = []
    for prompt in PROMPTS:
        ids = (tokenizer.bos_id, *tokenizer.encode([prompt])[0])
        stop = tuple(filter(None, (free[prompt].text[5:8], free[prompt].text[9:12])))
        sampling = Sampling(max_tokens=24, temperature=0.0, stop=stop)
        requests.append(Request(prompt, ids, sampling))
    expected = {c.id: c for c in ours.generate(requests)}
    assert sum(c.text != free[name].text for name, c in expected.items()) > 5
    assert {n: c._replace(logprobs=()) for n, c in answers(url, requests).items()} == expected


def test_a_schema_is_followed_by_a_model_of_random_weights(url):
    sampling = Sampling(max_tokens=60, schema=json.dumps(SCHEMA))
    chat = ({"role": "user", "content": "Are you sure?"},)
    prompts = [chat, PROMPTS[0]] * 4
    requests = [Request(str(i), prompt, sampling, i) for i, prompt in enumerate(prompts)]
    for completion in answers(url, requests).values():
        value = json.loads(completion.text)
        assert value.keys() == {"sure", "kind"} and value["kind"] in ("a", "b")


def test_what_the_server_refuses_is_an_error_and_the_rest_goes_on(url):
    bad = {
        "long": "word " * CONTEXT,
        "long ids": (5,) * (CONTEXT + 1),
        "empty": "",
        "no ids": (),
        "strange ids": (10**6,),
        "half a pair": "\ud800",
    }
    odd = {"nul": "\0\0", "strange": "\x07\u2028\U0010ffff"}
    found = answers(url, [Request(n, p, GREEDY) for n, p in {**bad, **odd, "last": "a"}.items()])
    assert {name for name, c in found.items() if c.finish_reason == "error"} == bad.keys()
    assert all(found[name].error.startswith("HTTP 400: ") for name in bad)
    assert "context length is 128" in found["long"].error
