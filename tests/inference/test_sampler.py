"""The sampler draws from the model's own distribution, whatever stands beside a prompt."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbp_jax.config import MeshConfig, ModelConfig
from sbp_jax.errors import UserError
from sbp_jax.inference import sampler as sampler_module
from sbp_jax.inference.decode import STOPS, likeliest
from sbp_jax.inference.engine import Request, Sampling
from sbp_jax.model import transformer
from sbp_jax.parallel import make_mesh

KNOWN = 44  # ids of the tokenizer; the model's other four only fill its vocabulary up
MODEL = ModelConfig(
    num_layers=2, d_model=32, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=64, vocab_size=48
)
END = 43
PROMPTS = [(5, 9, 2), (7,), (11, 3, 40, 8, 1, 30, 22), (1, 2, 3, 4)]


class Ids:
    """A tokenizer whose texts are numbers."""

    vocab_size, bos_id, eos_id, stop_ids, fingerprint = KNOWN, 0, END, (END,), "ids"

    def encode(self, texts):
        return [[int(word) for word in text.split()] for text in texts]

    def decode(self, ids):
        return " ".join(map(str, ids))


class Endless(Ids):
    stop_ids = (KNOWN + 1,)


def make_sampler(*arguments, mesh=None, **options):
    """On one device, unless told otherwise."""
    mesh = mesh or make_mesh(MeshConfig(), jax.devices()[:1])
    return sampler_module.Sampler(*arguments, mesh=mesh, **options)


@pytest.fixture(scope="module")
def params():
    """Layers large enough that each next token depends on those before."""
    made = transformer.init_params(MODEL, 3)
    return {**made, "layers": jax.tree.map(lambda x: x * 2, made["layers"])}


@pytest.fixture(scope="module")
def sampler(params):
    return make_sampler(MODEL, params, Endless(), max_length=200, batch_size=8)


@pytest.fixture(scope="module")
def all_logits(params):
    """Of a text, by the training forward pass; of those so far, whatever is padded behind."""

    @jax.jit
    def forward(tokens):
        model = transformer.bind(MODEL, params)
        return model.logits(model(tokens)[0])[0]

    def of(text):
        padded = np.zeros((1, 128), np.int32)
        padded[0, : len(text)] = text
        return np.asarray(forward(padded))[: len(text)]

    return of


def ask(prompts, seeds=range(10_000), **options):
    sampling = Sampling(**{"max_tokens": 12, **options})
    return [
        Request(str(i), prompt, sampling, seed)
        for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=False))
    ]


def answers(sampler, requests):
    """In the order of the requests."""
    found = {completion.id: completion for completion in sampler.generate(requests)}
    assert len(found) == len(requests)
    return [found[request.id] for request in requests]


def texts(sampler, prompts, **options):
    return [list(c.tokens) for c in answers(sampler, ask(prompts, **options))]


def test_greedy_is_the_argmax_of_the_full_forward_pass_token_by_token(sampler, all_logits):
    for prompt, text in zip(PROMPTS, texts(sampler, PROMPTS, temperature=0.0), strict=True):
        expected = list(prompt)
        for _ in range(12):
            expected.append(int(all_logits(expected)[-1][:KNOWN].argmax()))
        assert list(prompt) + text == expected
        assert len(set(text)) > 2


def test_log_probabilities_are_those_of_the_training_forward_pass(sampler, all_logits):
    for temperature, top_p in ((0.0, 1.0), (1.0, 1.0), (0.7, 0.9)):
        requests = ask(PROMPTS, max_tokens=60, temperature=temperature, top_p=top_p, logprobs=True)
        for request, answer in zip(requests, answers(sampler, requests), strict=True):
            logits = all_logits([*request.prompt, *answer.tokens])[len(request.prompt) - 1 : -1]
            expected = jax.nn.log_softmax(logits)[np.arange(60), np.array(answer.tokens)]
            np.testing.assert_allclose(answer.logprobs, expected, atol=1e-5)
    assert answers(sampler, ask(PROMPTS))[0].logprobs == ()


def test_a_text_is_the_same_bits_alone_and_among_any_others(sampler):
    (alone,) = answers(sampler, ask(PROMPTS[:1], max_tokens=40, logprobs=True))
    rng = np.random.default_rng(0)
    others = [tuple(rng.integers(1, 40, n).tolist()) for n in rng.integers(1, 90, 30)]
    options = [Sampling(max_tokens=int(n)) for n in rng.integers(1, 90, 30)]
    crowd = [
        Request(f"other {i}", *each, i) for i, each in enumerate(zip(others, options, strict=True))
    ]
    crowd[11] = crowd[11]._replace(sampling=Sampling(max_tokens=50, top_p=0.5, top_k=7))
    for place in (0, 7, 30):
        among = [*crowd[:place], ask(PROMPTS[:1], max_tokens=40, logprobs=True)[0], *crowd[place:]]
        (same,) = (c for c in sampler.generate(among) if c.id == "0")
        assert same == alone


def test_the_number_of_rows_does_not_change_what_is_drawn(sampler, params):
    requests = ask(PROMPTS * 5, max_tokens=30)
    few = make_sampler(MODEL, params, Endless(), max_length=200, batch_size=3)
    assert [c.tokens for c in answers(few, requests)] == [
        c.tokens for c in answers(sampler, requests)
    ]


def test_completions_come_as_they_finish_and_requests_are_taken_as_there_is_room(sampler):
    taken = []

    def endless():
        for i in itertools.count():
            taken.append(i)
            yield Request(str(i), (1 + i % 40,), Sampling(max_tokens=3 if i == 5 else 40), i)

    completions = sampler.generate(endless())
    assert next(completions).id == "5"
    assert len(taken) == 8
    for _ in range(20):
        next(completions)
    completions.close()
    assert len(taken) <= 21 + 8


def test_equal_prompts_get_different_texts_by_their_seeds_and_the_same_by_the_same(sampler):
    drawn = texts(sampler, [PROMPTS[0]] * 8)
    assert len(set(map(tuple, drawn))) == 8
    assert texts(sampler, [PROMPTS[0]] * 8) == drawn
    large = [2**40 + 3, 2**41 + 3, -1, 3]  # all 64 bits of a seed count
    assert len(set(map(tuple, texts(sampler, [PROMPTS[0]] * 4, seeds=large)))) == 4


def test_a_text_ends_before_its_stop_token_and_the_others_go_on(sampler, params):
    drawn = texts(sampler, PROMPTS)
    stop = drawn[0][4]
    for answer, whole in zip(
        answers(sampler, ask(PROMPTS, stop_ids=(stop,), logprobs=True)), drawn, strict=True
    ):
        length = whole.index(stop) if stop in whole else 12
        assert list(answer.tokens) == whole[:length]
        assert answer.text == Ids().decode(whole[:length])
        assert answer.finish_reason == ("stop" if stop in whole else "length")
        assert answer.new_tokens == len(answer.logprobs) == min(length + 1, 12)
    ends = make_sampler(MODEL, params, Ids(), max_length=200, batch_size=8)
    (answer,) = answers(ends, ask([PROMPTS[1]], temperature=3.0, max_tokens=199))
    assert answer.finish_reason == "stop" and END not in answer.tokens


def test_a_text_ends_before_its_stop_text_and_the_others_go_on(sampler):
    whole = texts(sampler, PROMPTS, max_tokens=60, seeds=range(4))
    said = [f" {Ids().decode(text)} " for text in whole]
    across = f" {whole[0][20]} {whole[0][21]} "  # of two tokens, in the second run
    first, last = Ids().decode(whole[1][:1]), Ids().decode(whole[2][-2:])
    within = f"{whole[0][18]} {str(whole[0][19])[0]}"  # ends within a token
    prompt = Ids().decode(PROMPTS[0])
    for stop in ((across,), (first,), (last,), (prompt,), (within, across), (across, within)):
        options = {"max_tokens": 60, "stop": stop, "logprobs": True}
        free = answers(sampler, ask(PROMPTS, max_tokens=60, logprobs=True))
        found = answers(sampler, ask(PROMPTS, **options))
        for i, (got, was) in enumerate(zip(found, free, strict=True)):
            held = [n for n in range(1, 61) if any(s in Ids().decode(whole[i][:n]) for s in stop)]
            count = held[0] if held else 60
            assert got.tokens == was.tokens[:count] and got.new_tokens == count
            assert got.logprobs == was.logprobs[:count]
            text = Ids().decode(whole[i][:count])
            end = min((text.find(s) for s in stop if s in text), default=len(text))
            assert got.text == text[:end]
            assert got.finish_reason == ("stop" if held else "length")
            # The same alone, and where rows are taken again by those that come later.
            assert answers(sampler, [ask(PROMPTS, **options)[i]]) == [got]
        many = answers(sampler, [r._replace(id=f"{r.id} {n}") for n in range(9) for r in
                                 ask(PROMPTS, **options)])  # fmt: skip
        assert [c._replace(id="") for c in many] == [c._replace(id="") for c in found] * 9
    assert across in said[0] and answers(sampler, ask(PROMPTS, stop=(first,)))[1].text == ""


def test_of_a_stop_id_and_a_stop_text_the_first_ends_a_text(sampler):
    [whole] = texts(sampler, PROMPTS[:1])
    said = [Ids().decode(whole[:n]) for n in range(12)]
    at = next(
        n
        for n in range(3, 12)
        if whole[n] not in whole[:n]
        and f" {whole[n]}" not in said[n]
        and f" {whole[n - 1]}" not in said[n - 1]
    )
    for stop, tokens, new in (
        (f" {whole[at - 1]}", whole[:at], at),  # the text is there before the id is drawn
        (f" {whole[at]}", whole[:at], at + 1),  # an id that ends a text is no part of it
    ):
        sampling = {"stop": (stop,), "stop_ids": (whole[at],), "logprobs": True}
        [got] = answers(sampler, ask(PROMPTS[:1], **sampling))
        assert (list(got.tokens), got.new_tokens, got.finish_reason) == (tokens, new, "stop")
        assert len(got.logprobs) == new


def test_first_tokens_are_as_frequent_as_the_softmax_at_a_temperature_says(params, all_logits):
    rows = 4096
    wide = make_sampler(MODEL, params, Endless(), max_length=16, batch_size=rows)
    for temperature in (1.0, 2.0):
        drawn = texts(wide, [PROMPTS[0]] * rows, max_tokens=1, temperature=temperature)
        seen = np.bincount([text[0] for text in drawn], minlength=KNOWN) / rows
        expected = np.asarray(jax.nn.softmax(all_logits(PROMPTS[0])[-1][:KNOWN] / temperature))
        # Five standard deviations of a share of this many rows.
        assert np.all(np.abs(seen - expected) <= 5 * np.sqrt(expected / rows) + 1e-3)


def test_a_large_vocabulary_is_drawn_from_as_its_softmax_says():
    """Of more than a block of ids, with most of the mass on a few."""
    config = ModelConfig(
        num_layers=1, d_model=16, num_heads=2, num_kv_heads=1, head_dim=8, d_ff=16, vocab_size=700
    )
    params = transformer.init_params(config, 0)
    params["embed"] = params["embed"] * 6

    class Many(Ids):
        vocab_size, stop_ids = 650, (650,)

    rows = 4096
    sampler = make_sampler(config, params, Many(), max_length=16, batch_size=rows)
    model = transformer.bind(config, params)
    logits = model.logits(model(np.array([[9, 4]]))[0])[0, -1, :650]
    expected = np.asarray(jax.nn.softmax(logits))
    drawn = [text[0] for text in texts(sampler, [(9, 4)] * rows, max_tokens=1)]
    seen = np.bincount(drawn, minlength=650) / rows
    assert np.all(np.abs(seen - expected) <= 5 * np.sqrt(expected / rows) + 1e-3)
    assert len(set(drawn)) > 20 and max(drawn) < 650


def test_ids_that_only_fill_the_vocabulary_up_are_never_drawn(params):
    likely = {**params, "embed": params["embed"].at[KNOWN:].mul(50)}
    sampler = make_sampler(MODEL, likely, Endless(), max_length=40, batch_size=64)
    for options in ({"temperature": 0.0}, {"temperature": 5.0}, {"top_p": 0.9, "top_k": 40}):
        drawn = texts(sampler, [PROMPTS[1]] * 64, **options)
        assert max(itertools.chain(*drawn)) < KNOWN


def test_top_k_and_top_p_draw_from_the_likeliest_alone(params, all_logits):
    wide = make_sampler(MODEL, params, Endless(), max_length=16, batch_size=1024)
    probability = np.asarray(jax.nn.softmax(all_logits(PROMPTS[0])[-1][:KNOWN] / 3))
    order = np.argsort(-probability)
    before = np.cumsum(probability[order]) - probability[order]
    ask_many = {"max_tokens": 1, "temperature": 3.0}
    everywhere = {t[0] for t in texts(wide, [PROMPTS[0]] * 1024, **ask_many)}
    for options, inside in (
        ({"top_p": 0.5}, order[before < 0.5]),
        ({"top_k": 6}, order[:6]),
        # The nucleus is that of the six, whose probabilities are their own again.
        ({"top_p": 0.5, "top_k": 6}, order[:6][before[:6] < 0.5 * probability[order[:6]].sum()]),
    ):
        drawn = {t[0] for t in texts(wide, [PROMPTS[0]] * 1024, **options, **ask_many)}
        assert drawn == set(inside.tolist()) and len(everywhere) > len(drawn) > 1


def kept(logits, top_k, top_p):
    left = jax.jit(likeliest)(
        np.float32(logits)[None], np.array([top_k]), np.array([top_p], np.float32)
    )
    return np.isfinite(left)[0]


@given(
    st.lists(st.integers(-60, 60), min_size=6, max_size=6, unique=True),
    st.integers(1, 6),
    st.floats(0.01, 0.999),
)
@settings(max_examples=50)
def test_the_likeliest_are_k_and_of_them_the_fewest_that_reach_p(tenths, top_k, top_p):
    logits = np.array(tenths, np.float32) / 10
    among = kept(logits, top_k, 1.0)
    assert among.sum() == top_k and logits[among].min() > logits[~among].max(initial=-np.inf)
    left = kept(logits, top_k, top_p)
    assert not (left & ~among).any()
    probability = np.exp(logits[among].astype(np.float64))
    probability /= probability.sum()
    inside = left[among]
    mass, least = probability[inside].sum(), probability[inside].min()
    assert mass >= top_p - 1e-5 and mass - least < top_p + 1e-5
    assert least > probability[~inside].max(initial=0)


def test_top_p_of_one_keeps_every_token_and_of_next_to_nothing_the_likeliest():
    logits = [1.0, -30.0, 3.0, 2.0]
    assert kept(logits, 4, 1.0).all()
    assert kept(logits, 4, 1e-6).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("shape", [(4, 1, 1, 1), (2, 1, 2, 1), (1, 2, 2, 1)])
def test_texts_are_the_same_on_every_mesh(sampler, params, shape):
    mesh = make_mesh(MeshConfig(*shape), jax.devices()[:4])
    split = make_sampler(MODEL, params, Endless(), max_length=200, batch_size=8, mesh=mesh)
    requests = ask(PROMPTS * 4, max_tokens=20, logprobs=True)
    for there, here in zip(answers(split, requests), answers(sampler, requests), strict=True):
        assert there.tokens == here.tokens
        np.testing.assert_allclose(there.logprobs, here.logprobs, atol=1e-5)


def test_new_parameters_are_drawn_by_from_then_on(params, all_logits):
    other = transformer.init_params(MODEL, 4)
    sampler = make_sampler(MODEL, other, Endless(), max_length=200, batch_size=8)
    first = texts(sampler, PROMPTS, temperature=0.0)
    sampler.set_params(params)
    second = texts(sampler, PROMPTS, temperature=0.0)
    assert first != second
    assert second[0][0] == all_logits(PROMPTS[0])[-1][:KNOWN].argmax()


def test_a_prompt_that_cannot_be_answered_is_said_so_and_the_rest_go_on(params):
    sampler = make_sampler(MODEL, params, Endless(), max_length=30, batch_size=8)
    prompts = [(), (1,) * 30, (1,) * 29, (48,), (-1,), "1 2", *PROMPTS]
    found = answers(sampler, ask(prompts, max_tokens=50))
    assert [c.finish_reason for c in found] == [
        "error", "error", "length", "error", "error", *["length"] * 5
    ]  # fmt: skip
    assert "empty" in found[0].error and "30 tokens" in found[1].error
    assert "outside the model's 0..47" in found[3].error
    assert found[2].new_tokens == 1 and found[5].prompt_tokens == 3  # begin-of-text, 1, 2
    assert all(c.prompt_tokens + c.new_tokens == 30 for c in found[5:])


def test_a_model_that_has_diverged_gives_errors(params):
    broken = {**params, "final_norm": params["final_norm"] * np.nan}
    sampler = make_sampler(MODEL, broken, Endless(), max_length=40, batch_size=8)
    for temperature in (0.0, 1.0):
        for answer in answers(sampler, ask(PROMPTS, temperature=temperature)):
            assert answer.finish_reason == "error" and "not finite" in answer.error


def test_no_token_at_all_is_an_error(sampler):
    nothing, text = answers(sampler, ask(PROMPTS[:1], max_tokens=0) + ask(PROMPTS[:2])[1:])
    assert nothing.finish_reason == "error" and text.new_tokens == 12


def test_what_no_request_can_have_is_refused(sampler):
    with pytest.raises(UserError, match="schema"):
        list(sampler.generate(ask(PROMPTS, schema="{}")))
    with pytest.raises(UserError, match="ids would end a text"):
        list(sampler.generate(ask(PROMPTS, stop_ids=tuple(range(STOPS)))))


def test_no_requests_have_no_completions(sampler):
    assert list(sampler.generate([])) == []
