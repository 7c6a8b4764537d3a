"""Runs tasks on a model, one after the other, and keeps what each document got.

    W/tasks/TASK.json    a finished task, and what it depends on; the same command skips it
    W/results.json       written last, of all of them

Requests, answers and the number for each document are lm-eval's; the averages of them are taken
here (scores.py), and are those that lm-eval prints.
"""

import json
import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
from jinja2 import TemplateError
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import get_aggregation
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.defaults import default_gen_kwargs
from lm_eval.evaluator import evaluate
from lm_eval.utils import apply_template

from sbp_jax import files
from sbp_jax.errors import UserError
from sbp_jax.evaluation.scores import Score, TaskScores
from sbp_jax.evaluation.tasks import Planned

log = logging.getLogger(__name__)

FEWSHOT_SEED = 1234  # lm-eval's own, for the same examples
# What templates and functions of a task raise at a row that they were not made for.
MISFITS = (TemplateError, LookupError, TypeError, ValueError, AttributeError, AssertionError)
NEW_TOKENS = {"max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"}


def run(
    planned: Sequence[Planned],
    model: TemplateLM,
    folder: Path,
    *,
    identity: dict[str, Any],  # of the model and what runs it: another one scores anew
    limit: int | None = None,
) -> dict[str, Any]:
    """The part of results.json that says what the tasks gave."""
    entries = {}
    for one in planned:
        _prepare(one, model)
    for number, one in enumerate(planned, start=1):
        context = model.max_length  # a setting of the engine, not of the checkpoint
        told = {**identity, "limit": limit, "lm_eval": lm_eval.__version__, "context": context}
        key = _key(one, told)
        record = folder / "tasks" / f"{one.name}.json"
        entry = _finished(folder, record, key)
        if entry:
            log.info("%s: scored already", one.name)
        else:
            log.info("%s, %d of %d", one.name, number, len(planned))
            entry = _scores(one, model, limit).write(folder, one.name)
            files.write_json(record, {"key": key, **entry})
        entries[one.name] = entry
    return entries


def _prepare(planned: Planned, model: Any) -> None:
    for task in planned.tasks:
        named = task.aggregation()
        if named and not any(map(_is_kept, named.values())):
            raise UserError(
                f"{planned.name}: {', '.join(named)}: no average over documents, and so no metric "
                "of ours; add one that is, such as acc or exact_match"
            )
        if task.config.num_fewshot is None:
            task.set_config("num_fewshot", 0)
        settings = task.config.generation_kwargs or {}
        unsaid = not NEW_TOKENS.intersection(settings)
        unsaid |= settings == default_gen_kwargs(task.config.fewshot_delimiter)
        # lm-eval takes 256 then, for which a small context has no room.
        if (
            task.OUTPUT_TYPE == "generate_until"
            and unsaid
            and (count := model.max_length // 4) < 256
        ):
            log.info("%s: its texts have at most %d tokens", planned.name, count)
            task.set_config("generation_kwargs", {"max_gen_toks": count}, update=True)


def _finished(folder: Path, record: Path, key: str) -> dict[str, Any] | None:
    """None as well where a file is damaged: to evaluate again is what others say helps then."""
    try:
        entry = json.loads(record.read_text())
        same = entry.pop("key") == key
        whole = same and files.sha256((folder / entry["samples"]).read_bytes()) == entry["sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return entry if whole else None


def _key(planned: Planned, identity: dict[str, Any]) -> str:
    rows = [
        files.sha256(json.dumps(docs, sort_keys=True, default=str).encode())
        for task in planned.tasks
        for docs in _documents(task)
    ]
    configs = [task.dump_config() for task in planned.tasks]
    code = sorted(
        {
            _code(value)
            for task in planned.tasks
            for name, value in vars(task.config).items()
            if name != "custom_dataset"  # which is ours
        }
    )
    told = json.dumps([identity, configs, rows, code], sort_keys=True, default=_told)
    return files.sha256(told.encode())


def _code(value: Any) -> str:
    """Of the file of a task's function: what it calls there is not in lm-eval's record of it."""
    path = Path(value.__code__.co_filename) if hasattr(value, "__code__") else None
    return files.sha256(path.read_bytes()) if path and path.exists() else ""


def _told(value: Any) -> str:
    return value.__qualname__ if callable(value) else str(value)


def _documents(task: Task) -> list[list[Any]]:
    """What is scored, and what examples are drawn from: of a large set on the hub the beginning."""
    examples: Any = task.fewshot_docs() if task.config.num_fewshot else []
    count = len(examples) if task.config.custom_dataset else min(len(examples), 1000)
    return [list(task.eval_docs), [examples[i] for i in range(count)], [len(examples)]]


def _scores(planned: Planned, model: TemplateLM, limit: int | None) -> TaskScores:
    # Tasks may draw from these; lm-eval's own command seeds them so.
    random.seed(0)
    np.random.seed(FEWSHOT_SEED)
    for task in planned.tasks:
        task.set_fewshot_seed(FEWSHOT_SEED)
    named = {task.task_name: task for task in planned.tasks}
    try:
        found = evaluate(model, {"tasks": named}, limit=limit, bootstrap_iters=0)
        samples = found["samples"]
        return _joined([_task_scores(planned, t, samples[n], model) for n, t in named.items()])
    except UserError as error:
        raise UserError(f"{planned.name}: {error}") from error
    except MISFITS as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{planned.name}: a row does not fit the task: {reason}") from error


def _task_scores(
    planned: Planned, task: ConfigurableTask, samples: list[dict[str, Any]], model: TemplateLM
) -> TaskScores:
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    metrics: dict[str, Score] = {}
    for one in filters:
        filtered = [sample for sample in samples if sample["filter"] == one]
        for name in dict.fromkeys(name for sample in filtered for name in sample["metrics"]):
            if missing := next((s for s in filtered if name not in s["metrics"]), None):
                raise UserError(f"document {missing['doc_id'] + 1} has no metric {name}")
            score = _score(task, name, [sample[name] for sample in filtered])
            if score is None:
                log.warning("%s: %s is no average over documents: left out", planned.name, name)
            else:
                metrics[name if len(filters) == 1 else f"{name},{one}"] = score
    first = [sample for sample in samples if sample["filter"] == filters[0]]
    if task.OUTPUT_TYPE == "multiple_choice" and not task.multiple_input:
        metrics |= _right_answer(task, first)
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        metrics |= _for_each_token(first, model)
    return TaskScores(
        [sample["doc_hash"] for sample in first],
        [_text(planned, task, sample["doc"]) for sample in first],
        metrics,
        task.config.num_fewshot,
    )


def _score(task: ConfigurableTask, metric: str, values: list[Any]) -> Score | None:
    """None where lm-eval's aggregation is neither a mean nor made of one."""
    how, better = task.aggregation()[metric], task.higher_is_better()[metric]
    if not _is_kept(how):
        return None
    if how is get_aggregation("mean"):
        numbers = np.array(values, float)
        return Score(numbers, np.ones(len(numbers)), False, better)
    if how is get_aggregation("perplexity"):
        return Score(-np.array(values, float), np.ones(len(values)), True, better)
    logprobs, weights = np.array(values, float).T
    bits = how is get_aggregation("bits_per_byte")
    return Score(-logprobs / (np.log(2) if bits else 1), weights, not bits, better)


def _is_kept(aggregation: Any) -> bool:
    names = ("mean", "perplexity", "weighted_perplexity", "bits_per_byte")
    return any(aggregation is get_aggregation(name) for name in names)


def _right_answer(task: ConfigurableTask, samples: list[dict[str, Any]]) -> dict[str, Score]:
    """How surprising the right answer is: smooth where accuracy is a step."""
    if task.multiple_target or callable(task.config.process_results):  # several are, or none
        return {}
    surprise = []
    for sample in samples:
        right, choices = sample["target"], task.doc_to_choice(sample["doc"])
        if isinstance(right, str) and right in choices:
            right = choices.index(right)
        # lm-eval counts such a document as wrong, whatever the model says.
        if not isinstance(right, int) or not 0 <= right < len(choices):
            raise UserError(
                f"document {sample['doc_id'] + 1}: its answer, {right!r}, is none of its "
                f"{len(choices)} choices"
            )
        surprise.append(-sample["filtered_resps"][right][0])
    return {"answer_perplexity": Score(np.array(surprise), np.ones(len(surprise)), True, False)}


def _for_each_token(samples: list[dict[str, Any]], model: TemplateLM) -> dict[str, Score]:
    texts = [sample["arguments"][0][0] for sample in samples]
    counts = np.array([len(model.tok_encode(text)) for text in texts], float)
    surprise = np.array([-sample["filtered_resps"][0] for sample in samples], float)
    return {"token_perplexity": Score(surprise, counts, True, False)}


def _text(planned: Planned, task: ConfigurableTask, document: dict[str, Any]) -> str:
    if planned.benchmark and planned.benchmark.text:
        return apply_template(planned.benchmark.text, document)
    query = task.config.doc_to_decontamination_query if task.should_decontaminate() else None
    if isinstance(query, str):  # lm-eval takes the text of a template for Python
        return str(document[query] if query in document else apply_template(query, document))
    return f"{task.doc_to_text(document)} {task.doc_to_target(document)}"


def _joined(parts: list[TaskScores]) -> TaskScores:
    first = parts[0]
    metrics = {
        name: Score(
            np.concatenate([part.metrics[name].values for part in parts]),
            np.concatenate([part.metrics[name].weights for part in parts]),
            score.perplexity,
            score.higher_is_better,
        )
        for name, score in first.metrics.items()
    }
    hashes = [each for part in parts for each in part.hashes]
    texts = [each for part in parts for each in part.texts]
    return TaskScores(hashes, texts, metrics, first.shots)
