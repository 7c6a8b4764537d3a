"""Bulk jobs: corpus in, requests by a function, corpus out, each request once.

    job = bulk.Job(open_corpus("my_texts/", experiment), bulk.Template("{text}", sampling), {})
    manifest = bulk.run(job, "texts/mine", open_engine)

`python -m sbp_jax.synthesize` is this as a command. A function's module has its name here, so
`bulk.run` is the function: import the modules' other contents from `sbp_jax.inference.bulk.run`.
"""

from sbp_jax.inference.bulk.budget import Budget, BudgetSpent, within
from sbp_jax.inference.bulk.job import Ask, Job, Template
from sbp_jax.inference.bulk.ray import run_on_ray
from sbp_jax.inference.bulk.run import run

__all__ = [
    "Ask", "Budget", "BudgetSpent", "Job", "Template", "run", "run_on_ray", "within",
]  # fmt: skip
