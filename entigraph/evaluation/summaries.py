"""How much of an article is in a summary that a model gives of it from memory, beside a summary by
somebody who has read it.

A judge takes each summary apart into claims, then holds each claim against the article: false, true
but cosmetic, or salient. Counts are divided by those of the reference summaries, over all articles;
the reference's own false claims say how far the judge can be trusted.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from entigraph.evaluation.asking import Asker, Prompts
from entigraph.evaluation.questions import Article
from entigraph.library import Text
from sbp_jax import files
from sbp_jax.errors import UserError
from sbp_jax.evaluation.scores import Score, TaskScores
from sbp_jax.inference.engine import Sampling

VERDICTS = ("false", "cosmetic", "salient")
CLAIMS = Sampling(max_tokens=2048, temperature=0.0)
VERDICT = Sampling(max_tokens=8, temperature=0.0)
COUNTS = ("claims", "factual", "salient", "false")


def read_references(path: str) -> dict[str, str]:
    """JSONL of article_id and summary; of several for one article, the first."""
    found: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not all(isinstance(row.get(f), str) for f in ("article_id", "summary")):
                        raise UserError(f"{path}:{number}: needs article_id and summary, as texts")
                    found.setdefault(row["article_id"], row["summary"])
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}:{number}: no JSON object: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error
    return found


def summaries(
    articles: Sequence[Article],
    references: Mapping[str, str],
    ask: Asker,
    judge: Asker,
    prompts: Prompts,
    answer_tokens: int,
    temperature: float,
) -> tuple[dict[str, Any], TaskScores]:
    """Of the articles that have a reference and a text: all counts, and those of the model divided
    by the reference's.
    """
    some = [a.text for a in articles if a.text.id in references and a.text.text]
    if not some:
        raise UserError(
            "summaries: no article has both a text in the question file and a reference summary "
            "under its article_id"
        )
    given = ask(
        "summaries/texts",
        [(t.id, prompts.fill("summary", heading=t.heading)) for t in some],
        Sampling(answer_tokens, temperature),
    )
    written = {("model", t.id): given[t.id][0] for t in some}
    written |= {("reference", t.id): references[t.id] for t in some}
    split = judge(
        "summaries/claims",
        [
            (f"{who}/{id}", prompts.fill("claims", summary=summary))
            for (who, id), summary in written.items()
            if summary.strip()
        ],
        CLAIMS,
    )
    claims = {name: _claims(texts[0]) for name, texts in split.items()}
    bodies = {t.id: t for t in some}
    verdicts = judge(
        "summaries/verdicts",
        [
            (
                f"{name}/{number}",
                prompts.fill(
                    "verdict",
                    heading=(text := bodies[name.partition("/")[2]]).heading,
                    article=text.text,
                    claim=claim,
                ),
            )
            for name, of_summary in sorted(
                claims.items(), key=lambda item: item[0].partition("/")[2]
            )
            for number, claim in enumerate(of_summary)
        ],
        VERDICT,
    )
    counts = {
        who: [_counted(f"{who}/{t.id}", claims, verdicts) for t in some]
        for who in ("model", "reference")
    }
    details = {
        "articles": len(some),
        "no_summary": sum(not written["model", t.id].strip() for t in some),
        "unclear": sum(c["unclear"] for who in counts.values() for c in who),
        "totals": {who: dict(sum(each, Counter())) for who, each in counts.items()},
        "per_article": [
            {"article": t.id, **{who: dict(counts[who][i]) for who in counts}}
            for i, t in enumerate(some)
        ],
    }
    return details, _relative(some, references, counts)


def _relative(
    texts: Sequence[Text],
    references: Mapping[str, str],
    counts: Mapping[str, Sequence[Mapping[str, int]]],
) -> TaskScores:
    told = [json.dumps([t.heading, references[t.id]]).encode() for t in texts]
    metrics = {
        name: Score(
            np.array([c[name] for c in counts["model"]], float),
            np.array([c[name] for c in counts["reference"]], float),
            higher_is_better=name != "false",
        )
        for name in COUNTS
    }
    return TaskScores(list(map(files.sha256, told)), [t.heading for t in texts], metrics)


def _claims(text: str) -> list[str]:
    """A line each, with or without a bullet or a number."""
    lines = (re.sub(r"^\s*(?:[-*•]|\(?\d+[.)])\s*", "", line).strip() for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if re.search(r"\w", line)))


def _counted(
    name: str, claims: Mapping[str, list[str]], verdicts: Mapping[str, list[str]]
) -> Counter[str]:
    counts: Counter[str] = Counter(dict.fromkeys((*COUNTS, "unclear"), 0))
    for number in range(len(claims.get(name, ()))):
        verdict = _verdict(verdicts[f"{name}/{number}"][0])
        counts["claims"] += 1
        counts["factual"] += verdict in ("cosmetic", "salient")
        counts[verdict] += verdict != "cosmetic"
    return counts


def _verdict(text: str) -> str:
    found = re.search(rf"\b({'|'.join(VERDICTS)})\b", text.lower())
    return found[1] if found else "unclear"
