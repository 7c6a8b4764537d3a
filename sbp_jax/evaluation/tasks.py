"""lm-eval's tasks, with rows from the hub or from local files, and every mistake named.

Local rows have the columns of the data set on the hub, one JSON object a line:

    DIR/TASK.jsonl                      the rows to score; examples come from the others of them
    DIR/TASK/test.jsonl, train.jsonl    splits by the names that lm-eval's task gives them
    DIR/*.yaml                          tasks of one's own, in lm-eval's format

lm-eval passes over a YAML file that it cannot read without a word; here it ends the run.
"""

import difflib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import lm_eval.tasks
import pyarrow as pa
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from sbp_jax.errors import UserError
from sbp_jax.evaluation.suite import BY_TASK, OPENWEBTEXT2, SBP, Benchmark

Rows = list[dict[str, Any]]
_OWN = Path(lm_eval.tasks.__file__).parent
_FOLDERS = ("arc", "sciq", "winogrande", "triviaqa", "webqs", "lambada", "mmlu")  # of the suite
_SUBJECTS = "The following are multiple choice questions (with answers) about {}.\n\n"


def _first_answer(row: dict[str, Any]) -> str:
    return sorted(row["answers"])[0]


# lm-eval's task says which answers are right by their numbers, and cannot show one in an example.
_EXAMPLES = {"webqs": {"fewshot_config": {"doc_to_target": _first_answer}}}


class Planned(NamedTuple):
    """What one line of the results comes from; MMLU is many of lm-eval's tasks."""

    name: str
    benchmark: Benchmark | None
    tasks: list[Task]


def plan(suite: str, tasks_dir: str, say: Callable[[str], None]) -> list[Planned]:
    """The tasks of a suite: `sbp`, or names of tasks with commas between them."""
    own = _own_tasks(tasks_dir) if tasks_dir else {}
    names = list(dict.fromkeys(name.strip() for name in suite.split(",") if name.strip()))
    if not names:
        raise UserError("--suite names no task; give sbp, or names of lm-eval's tasks")
    if "sbp" in names and len(names) > 1:
        raise UserError(
            "--suite: sbp stands alone; evaluate other tasks in a --workdir of their own"
        )
    wanted = [b.task for b in SBP] if names == ["sbp"] else names
    if names == ["sbp"] and tasks_dir:
        there = [name for name in wanted if _has_rows(tasks_dir, name)]
        if missing := [name for name in wanted if name not in there]:
            if not there:
                raise UserError(
                    f"{tasks_dir}: no rows of any benchmark of the suite: "
                    f"{', '.join(f'{name}.jsonl' for name in wanted)}"
                )
            files = ", ".join(f"{name}.jsonl" for name in missing)
            say(f"{tasks_dir} has no {files}: the table goes without")
        wanted = there
    manager = _manager(wanted, own, tasks_dir)
    return [planned for name in wanted for planned in _planned(name, manager, own, tasks_dir)]


def _manager(wanted: Iterable[str], own: dict[str, Path], tasks_dir: str) -> TaskManager:
    """Reading lm-eval's ten thousand files takes seconds, and the suite needs few of them."""
    if all(name in BY_TASK or name in own for name in wanted):
        folders = [str(_OWN / folder) for folder in _FOLDERS]
        include = [*folders, *([tasks_dir] if own else [])]
        return TaskManager(include_path=include, include_defaults=False)
    return TaskManager(include_path=tasks_dir if own else None)


def _own_tasks(tasks_dir: str) -> dict[str, Path]:
    """The file of each task or group that is defined in the folder."""
    if not Path(tasks_dir).is_dir():
        raise UserError(f"--tasks_dir={tasks_dir}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(Path(tasks_dir).rglob("*.yaml")):
        try:
            config = load_yaml(path, resolve_func=True)
        except Exception as error:  # whatever YAML, an include or a function of it raises
            raise UserError(f"{path}: cannot be read as a task: {_line(error)}") from error
        name = config.get("task") if isinstance(config.get("task"), str) else config.get("group")
        if not name:
            if path.name.startswith("_"):  # what others include
                continue
            raise UserError(f"{path}: no `task:` and no `group:` in it (includes begin with _)")
        if "/" in name:
            raise UserError(f"{path}: {name!r} names the task's files, and has a /")
        if name in found:
            raise UserError(f"{path}: {name!r} is the name of {found[name]} already")
        found[name] = path
    return found


def _planned(
    name: str, manager: TaskManager, own: dict[str, Path], tasks_dir: str
) -> Iterable[Planned]:
    benchmark = None if name in own else BY_TASK.get(name)
    local = bool(tasks_dir) and name not in own and _has_rows(tasks_dir, name)
    if local and benchmark and name == "mmlu":
        yield Planned(name, benchmark, _local_subjects(benchmark, tasks_dir))
        return
    entry = manager.task_index.get(name)
    if benchmark and name == OPENWEBTEXT2["task"]:
        config: dict[str, Any] = dict(OPENWEBTEXT2)
    elif entry is None:
        near = difflib.get_close_matches(name, [*manager.all_tasks, "sbp"], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"--suite: no task {name!r} in lm-eval or --tasks_dir{hint}")
    elif local or (benchmark and name != "mmlu"):
        config = load_yaml(_yaml(entry, name))
    else:  # as it is: one task or many
        tasks = _loaded(manager, name, str(own.get(name, name)))
        if benchmark:
            for task in tasks:
                task.set_config("num_fewshot", benchmark.shots)
            yield Planned(name, benchmark, tasks)
        else:
            yield from (Planned(task.task_name, None, [task]) for task in tasks)
        return
    source = str(config.get("dataset_path", name))
    if benchmark:
        config |= {"num_fewshot": benchmark.shots, **_EXAMPLES.get(name, {})}
    if local:
        config |= _local_rows(config, tasks_dir, name, benchmark)
        source = str(Path(tasks_dir) / name)
    yield Planned(name, benchmark, _loaded(manager, config, source))


def _yaml(entry: Any, name: str) -> Path:
    if entry.yaml_path is None or entry.kind.name != "TASK":
        raise UserError(f"--tasks_dir: {name} is no single task: give rows of each of its tasks")
    return entry.yaml_path


def _loaded(manager: TaskManager, spec: str | dict[str, Any], source: str) -> list[Task]:
    try:
        return list(manager.load([spec])["tasks"].values())
    except (ConnectionError, OSError) as error:
        reason = _line(error)
        named = reason if source in reason else f"{source}: {reason}"
        raise UserError(
            f"{named}: the data set cannot be fetched; without a network, give its rows in "
            "--tasks_dir"
        ) from error
    except Exception as error:  # lm-eval tries a task's templates on its first row
        raise UserError(f"{source}: lm-eval cannot make a task of it: {_line(error)}") from error


def _has_rows(tasks_dir: str, name: str) -> bool:
    folder = Path(tasks_dir) / name
    return folder.with_name(f"{name}.jsonl").exists() or any(folder.glob("*.jsonl"))


def _local_rows(
    config: dict[str, Any], tasks_dir: str, name: str, benchmark: Benchmark | None
) -> dict[str, Any]:
    splits = _read_splits(tasks_dir, name, benchmark.columns if benchmark else ())
    shots = config.get("num_fewshot") or 0
    return _splits_of(config, splits, Path(tasks_dir) / name, shots) | _rows(splits, name)


def _splits_of(
    config: dict[str, Any], splits: dict[str, Rows], folder: Path, shots: int
) -> dict[str, Any]:
    """The fields that say which rows are scored and which are examples."""
    scored = [config.get("test_split"), config.get("validation_split"), ""]
    chosen = next((split for split in scored if split in splits), None)
    if chosen is None:
        names = " or ".join(f"{folder}/{split}.jsonl" for split in scored if split)
        raise UserError(f"{folder}: no rows to score: give {names}, or {folder}.jsonl")
    examples = config.get("fewshot_split") or config.get("training_split")
    if examples not in splits:
        examples = chosen
    if shots + (examples == chosen) > len(splits[examples]):
        raise UserError(
            f"{folder}: {len(splits[examples])} rows for {shots} examples before each question; "
            f"give at least {shots + (examples == chosen)}"
        )
    return {
        "test_split": chosen,
        "validation_split": None,
        "training_split": None,
        "fewshot_split": examples if shots else None,
    }


def _rows(splits: dict[str, Rows], name: str) -> dict[str, Any]:
    made = {}
    for split, rows in splits.items():
        # Not from_list, which has only the first row's columns.
        columns = {column: [row.get(column) for row in rows] for row in rows for column in row}
        try:
            made[split] = datasets.Dataset.from_dict(columns)
        except (pa.ArrowException, UnicodeError, OverflowError) as error:
            where = f"{name}/{split}.jsonl" if split else f"{name}.jsonl"
            raise UserError(f"{where}: its rows make no table: {_line(error)}") from error
    return {
        "custom_dataset": lambda **_: made,
        "dataset_path": None,
        "dataset_name": None,
        "dataset_kwargs": None,
    }


def _local_subjects(benchmark: Benchmark, tasks_dir: str) -> list[Task]:
    """MMLU's rows lie in one file; each subject has a task, with examples of its own."""
    template = load_yaml(_OWN / "mmlu" / "default" / "_default_template_yaml")
    splits = _read_splits(tasks_dir, "mmlu", benchmark.columns)
    folder = Path(tasks_dir) / "mmlu"
    manager = TaskManager(include_path=[], include_defaults=False)
    subjects = sorted({str(row["subject"]) for rows in splits.values() for row in rows})
    tasks: list[Task] = []
    for subject in subjects:
        own = {
            split: [row for row in rows if str(row["subject"]) == subject]
            for split, rows in splits.items()
        }
        own = {split: rows for split, rows in own.items() if rows}
        fields = _splits_of(template, own, folder / subject, benchmark.shots)
        fields |= _rows(own, "mmlu")
        described = {
            "task": f"mmlu_{subject}",
            "description": _SUBJECTS.format(subject.replace("_", " ")),
            "num_fewshot": benchmark.shots,
        }
        tasks += _loaded(manager, template | fields | described, f"{folder} ({subject})")
    return tasks


def _read_splits(tasks_dir: str, name: str, columns: tuple[str, ...]) -> dict[str, Rows]:
    """By name; those of DIR/TASK.jsonl have none."""
    folder, file = Path(tasks_dir) / name, Path(tasks_dir) / f"{name}.jsonl"
    paths = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
    if file.exists():
        paths[""] = file
    return {split: _read(path, columns) for split, path in paths.items()}


def _read(path: Path, columns: tuple[str, ...]) -> Rows:
    rows: Rows = []
    kinds: dict[str, tuple[str, int]] = {}  # of the values of a column, and the first line of one
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # nothing else ends a line
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {_line(error)}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}: line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is no JSON object")
        missing = [c for c in columns if row.get(c) is None]
        if missing:
            has = ", ".join(row) or "none"
            raise UserError(f"{path}: line {number} has no column {missing[0]!r}, but: {has}")
        for column, value in row.items():
            number_like = isinstance(value, int | float) and not isinstance(value, bool)
            kind = "number" if number_like else type(value).__name__
            known, first = (
                kinds.setdefault(column, (kind, number)) if value is not None else ("", 0)
            )
            if known and kind != known:
                raise UserError(
                    f"{path}: line {number}: {column} is a {kind}, but a {known} in line {first}"
                )
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: no rows in it")
    return rows


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300].replace(os.sep * 2, os.sep)
