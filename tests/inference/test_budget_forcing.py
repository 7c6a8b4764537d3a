"""Thinking takes as many tokens as it is given: a scripted model's, and one's of random weights."""

import itertools

import jax
import numpy as np
import pytest

from sbp_jax.config import MeshConfig, ModelConfig
from sbp_jax.data.tokenizer import train_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.inference.budget_forcing import STYLES, Forcing, Problem, Style, think
from sbp_jax.inference.engine import Completion, Request, Sampling, prompt_ids
from sbp_jax.inference.sampler import Sampler
from sbp_jax.model import transformer
from sbp_jax.parallel import make_mesh

GREEDY = Sampling(temperature=0.0)


class Dots:
    """Thinks a dot at a time, as many as the prompt says, and again as many when it is told to go
    on; then ends, and answers with the number of all of them. A token is a character, the delimiter
    one more. It has room for a number of requests, as real engines do.
    """

    tokenizer, fingerprint = None, "dots"

    def __init__(self, room=3):
        self.room, self.seen, self.calls = room, [], 0

    def generate(self, requests):
        self.calls += 1
        source, held = iter(requests), []
        while True:
            held += [r for r in (next(source, None) for _ in range(self.room - len(held))) if r]
            if not held:
                return
            request = held.pop()  # the last first
            self.seen.append(request)
            yield self.answer(request)

    def answer(self, request):
        number, _, so_far = request.prompt.partition(": ")
        if "refuse" in number:
            return Completion(request.id, "", "error", error="too long")
        if "Answer" in so_far or "</think>" in so_far:
            count = so_far.count(".")
            return Completion(request.id, f" {count}", "stop", new_tokens=len(str(count)) + 2)
        assert request.sampling.stop
        wanted = int(number) - so_far.rpartition("Wait")[2].count(".")
        if wanted < request.sampling.max_tokens:
            return Completion(request.id, "." * wanted, "stop", new_tokens=wanted + 1)
        count = request.sampling.max_tokens
        return Completion(request.id, "." * count, "length", new_tokens=count)


def thoughts(engine, prompts, forcing, **options):
    problems = [Problem(str(i), prompt) for i, prompt in enumerate(prompts)]
    found = {t.id: t for t in think(engine, problems, forcing, **options)}
    assert len(found) == len(prompts)
    return [found[p.id] for p in problems]


def test_who_thinks_too_long_is_cut_off_and_who_stops_early_is_told_to_wait():
    engine = Dots()
    short, long, never, refused = thoughts(
        engine, ["4: ", "30: ", "0: ", "refuse 3: "], Forcing(most=20, waits=2)
    )
    assert short.thinking == "....\nWait....\nWait...." and short.answer == "\nFinal Answer: 12"
    assert (short.thinking_tokens, short.waits, short.cut, short.rounds) == (15, 2, False, 4)
    assert long.thinking == "." * 20 and long.answer == "\nFinal Answer: 20"
    assert (long.thinking_tokens, long.waits, long.cut, long.rounds) == (20, 0, True, 2)
    assert (never.thinking, never.thinking_tokens) == ("\nWait\nWait", 3)
    assert refused.error == "too long" and refused.answer == ""
    assert engine.calls == 4  # waves, in which all rounds are together


def test_what_was_used_is_taken_off_what_is_left():
    [thought] = thoughts(Dots(), ["8: "], Forcing(most=20, waits=4))
    # 9 and 9 with the delimiters, and 2 that are left.
    assert thought.thinking == "........\nWait........\nWait.."
    assert (thought.thinking_tokens, thought.waits, thought.cut) == (20, 2, True)
    # An end with the last token is an end: there is nothing left to wait with.
    [thought] = thoughts(Dots(), ["8: "], Forcing(most=9, waits=4))
    assert (thought.thinking_tokens, thought.waits, thought.cut) == (9, 0, False)


def test_no_thinking_at_all_is_an_answer_at_once():
    engine = Dots()
    [thought] = thoughts(engine, ["8: "], Forcing(most=0))
    assert (thought.thinking, thought.answer, thought.rounds) == ("", "\nFinal Answer: 0", 1)
    assert thought.cut and engine.seen[0].prompt == "8: \nFinal Answer:"


def test_delimiters_are_those_of_the_style():
    engine = Dots()
    think_tags = Forcing(most=3, style=STYLES["think"])
    list(think(engine, [Problem("a", "7: ")], think_tags))
    assert [r.sampling.stop for r in engine.seen] == [("</think>",), ()]
    assert engine.seen[1].prompt == "7: <think>\n...</think>\n\nFinal Answer:"
    with pytest.raises(UserError, match="token ids"):
        thoughts(Dots(), ["8: "], Forcing(style=STYLES["s1"]))
    with pytest.raises(UserError, match="problem a: .*as text"):
        list(think(Dots(), [Problem("a", (1, 2))], Forcing()))


def test_seeds_are_of_the_problem_the_sample_and_the_round():
    def seeds(problems, seed=0):
        engine = Dots()
        list(think(engine, problems, Forcing(most=20, waits=1), seed=seed))
        return {r.seed for r in engine.seen}

    both = [Problem("a", "3: "), Problem("b", "3: ")]
    alone = seeds(both[:1])
    assert len(alone) == 3 and alone < seeds(both) and len(seeds(both)) == 6
    assert not alone & seeds([both[0]._replace(sample=1)]) and not alone & seeds(both, seed=1)


TEXTS = ["So he said: wait. Then we wait.\n\nThe answer is 12.\n", "été à Zürich 日本 🙂🙂"] * 30


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    tokenizer = train_tokenizer(TEXTS, 330, tmp_path_factory.mktemp("tokenizer"))
    model = ModelConfig(
        num_layers=2, d_model=32, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=64, vocab_size=336
    )
    params = transformer.init_params(model, 3)
    bytes_ = np.array([i for i in range(330) if "\ufffd" in tokenizer.decode([i])])
    params = {
        "layers": jax.tree.map(lambda x: x * 2, params["layers"]),
        # Few bytes out of place, so that most texts are text.
        **{k: v for k, v in params.items() if k != "layers"},
        "embed": params["embed"].at[bytes_].mul(0.01) * 4,
    }
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return Sampler(model, params, tokenizer, max_length=300, batch_size=4, mesh=mesh)


class Noting:
    """An engine, and what it was asked."""

    def __init__(self, engine):
        self.engine, self.tokenizer, self.seen = engine, engine.tokenizer, []

    def generate(self, requests):
        def noted():
            for request in requests:
                self.seen.append(request)
                yield request

        return self.engine.generate(noted())


# Ends that a model of random weights comes to.
STYLE = Style(begin="<", end="e", wait="W", lead_in="A", stop=("\n",))
PROMPTS = ["So he said: ", "日本", "The answer is 12.\n", "été"]


def test_a_real_model_goes_on_from_the_very_tokens_that_it_drew(sampler):
    engine = Noting(sampler)
    forcing = Forcing(most=60, waits=3, answer_tokens=9, style=STYLE)
    found = thoughts(engine, PROMPTS, forcing)
    asked = {sampler.tokenizer.decode(request.prompt) for request in engine.seen}
    whole = 0
    for prompt, thought in zip(PROMPTS, found, strict=True):
        assert 0 < thought.thinking_tokens <= 60 and thought.waits <= 3
        assert "e" not in thought.thinking
        assert thought.cut or thought.waits == 3 or thought.thinking_tokens == 60
        lead = "eA" if thought.cut else "e"
        assert thought.answer.startswith(lead)
        if "\ufffd" not in thought.thinking:
            assert f"{prompt}<{thought.thinking}{lead}" in asked
            whole += 1
        begin = (*prompt_ids(sampler.tokenizer, prompt), *sampler.tokenizer.encode(["<"])[0])
        contexts = [r.prompt for r in engine.seen if r.prompt[: len(begin)] == begin]
        assert contexts[0] == begin and len(contexts) == thought.rounds
        for before, after in itertools.pairwise(contexts):
            assert after[: len(before)] == before and len(after) > len(before)
    assert whole
    assert sum(thought.waits for thought in found) > 2
    # The same alone, and with the same seed.
    assert thoughts(sampler, PROMPTS, forcing) == found
    [alone] = think(sampler, [Problem("2", PROMPTS[2])], forcing)
    assert alone == found[2]
    assert thoughts(sampler, PROMPTS, forcing, seed=1) != found


def test_cutting_a_greedy_model_off_does_not_change_what_it_had_thought(sampler):
    style = Style(end="never said", stop=())
    long, short = (
        thoughts(sampler, PROMPTS, Forcing(most, style=style), sampling=GREEDY) for most in (40, 9)
    )
    for whole, part in zip(long, short, strict=True):
        assert part.thinking_tokens == min(9, whole.thinking_tokens)
        assert whole.thinking.startswith(part.thinking.rstrip("\ufffd"))
    assert any(part.cut for part in short)


def test_ids_end_the_thinking_where_a_style_says_so(sampler):
    ids = tuple(prompt_ids(sampler.tokenizer, PROMPTS[0]))
    [free] = sampler.generate([Request("a", ids, GREEDY)])
    at = next(n for n in range(5, 99) if free.tokens[n] not in free.tokens[:n])
    end = free.tokens[at]
    engine = Noting(sampler)
    style = Style(end=(end, "A"), end_ids=(end,), wait=(7, "W"), stop=())
    [thought] = thoughts(engine, PROMPTS[:1], Forcing(40, 1, style=style), sampling=GREEDY)
    assert thought.waits == 1
    first, second, *_, last = (request.prompt for request in engine.seen)
    wait, answer = sampler.tokenizer.encode(["W", "A"])
    assert (first, second) == (ids, (*ids, *free.tokens[:at], 7, *wait))
    assert last[: len(second)] == second and last[-1 - len(answer) :] == (end, *answer)
