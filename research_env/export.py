"""Groups of ideas with their rewards, to train a model on by reinforcement learning.

    python -m research_env.export runs/first --output=groups.jsonl
    python -m research_env.export runs/first --output=groups.parquet

A row is an idea: group, context (what its author was shown), title, idea, diff, reward, score,
state, kind, author, parents. Ideas of one group answered the same wish. The reward is how much
better than the baseline it scored, in the metric's unit and so that more is better; an idea that
failed has the worst reward that any idea earned, and none above 0. Failures of the harness are left
out.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from research_env.bank import NAME, Bank
from research_env.outcome import State
from sbp_jax import cli, files
from sbp_jax.errors import UserError

COLUMNS = (
    "group",
    "context",
    "id",
    "title",
    "idea",
    "diff",
    "reward",
    "score",
    "state",
    "kind",
    "author",
    "parents",
)
OUTPUT = flags.DEFINE_string("output", None, "File, .jsonl or .parquet.", allow_override=True)


def main(workdir: str) -> None:
    output = Path(OUTPUT.value or "")
    if output.suffix not in (".jsonl", ".parquet"):
        raise UserError(f"--output={output}: must end in .jsonl or .parquet")
    with Bank(Path(workdir) / NAME) as bank:
        found = list(rows(bank))
    if output.suffix == ".jsonl":
        files.write_bytes(output, "".join(json.dumps(row) + "\n" for row in found).encode())
    else:
        files.write_bytes(output, _parquet(found))
    groups = len({row["group"] for row in found})
    print(f"{output}: {len(found)} ideas in {groups} groups")


def rows(bank: Bank) -> Iterator[dict[str, Any]]:
    sign = 1 if bank.direction == "maximize" else -1
    baseline = bank.idea(0).score
    if baseline is None:
        raise UserError(f"{bank.path}: its baseline has no score yet, so there are no rewards")
    ended = [i for i in bank.ended() if i.id and i.state != State.INFRASTRUCTURE]
    rewards = {i.id: sign * (i.score - baseline) for i in ended if i.score is not None}
    worst = min([0.0, *rewards.values()])
    for idea in sorted(ended):
        yield {
            "group": idea.group_id,
            "context": bank.context(idea.context),
            "id": idea.id,
            "title": idea.title,
            "idea": idea.text,
            "diff": idea.diff,
            "reward": rewards.get(idea.id, worst),
            "score": idea.score,
            "state": idea.state,
            "kind": idea.kind,
            "author": idea.author,
            "parents": list(idea.parents),
        }


def _parquet(found: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, number = pa.string(), pa.float64()
    types = {"id": pa.int64(), "reward": number, "score": number, "parents": pa.list_(pa.int64())}
    schema = pa.schema([(name, types.get(name, text)) for name in COLUMNS])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(found, schema), sink)
    return sink.getvalue().to_pybytes()


if __name__ == "__main__":
    cli.run(main, needs=("output",), arguments=("WORKDIR",))
