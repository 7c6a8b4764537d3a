"""Which of the four choices does a model find likeliest after the question? For models that are too
small to reason, and in no need of samples.

Each choice is put into prompts/likelihood.txt and scored from where the four texts part. A longer
choice is less likely for its length alone, so there are two scores: of whole choices, and for each
byte of them.
"""

from collections.abc import Sequence

import numpy as np

from entigraph.evaluation.asking import Prompts
from entigraph.evaluation.outcomes import Outcome
from entigraph.evaluation.questions import Article
from sbp_jax.inference.sampler import Sampler
from sbp_jax.inference.score import Scorer

PLACE = "\ue000"  # of a choice in a prompt; no text has this letter


def likelihood(
    articles: Sequence[Article], sampler: Sampler, prompts: Prompts
) -> dict[str, list[Outcome]]:
    """Outcomes of both scores, under their names."""
    asked = [(article, q) for article in articles for q in article.questions]
    logprobs = logprobs_of_choices(
        [
            (
                prompts.fill("likelihood", heading=a.text.heading, question=q.text, choice=PLACE),
                q.options,
            )
            for a, q in asked
        ],
        sampler,
    )
    sizes = np.array([[len(option.encode()) for option in q.options] for _, q in asked])
    return {
        name: [
            Outcome(question, article.text.id, int(best))
            for (article, question), best in zip(asked, values.argmax(axis=1), strict=True)
        ]
        for name, values in (("likelihood", logprobs), ("likelihood_per_byte", logprobs / sizes))
    }


def logprobs_of_choices(
    asked: Sequence[tuple[str, tuple[str, ...]]], sampler: Sampler
) -> np.ndarray:
    """[questions, choices], of (prompt with PLACE in it, choices)."""
    tokenizer = sampler.tokenizer
    begin = [tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id]
    sequences = []
    for prompt, options in asked:
        before, after = prompt.split(PLACE)
        shared_text, *texts = tokenizer.encode(
            [before.rstrip(), *(before + option + after for option in options)]
        )
        shared = min(_common(shared_text, text) for text in texts)
        for text in texts:
            # From the left only as much as the model reads.
            whole = begin + text
            tokens = whole[-(sampler.max_length + 1) :]
            sequences.append((tokens, max(1 + shared - (len(whole) - len(tokens)), 1)))
    logprobs = np.zeros(len(sequences))
    for number, values, _ in Scorer(sampler).score(sequences):
        logprobs[number] = values.sum(dtype=np.float64)
    return logprobs.reshape(len(asked), -1)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))
