"""The environment's own files, which are programs and no package, as modules."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import research_env

NANOGPT = Path(research_env.__file__).parent / "envs" / "nanogpt"


@pytest.fixture
def program(monkeypatch):
    """Loads code/train.py and the like, with these variables set."""

    def load(path, **variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        file = NANOGPT / path
        spec = importlib.util.spec_from_file_location(f"nanogpt_{file.stem}", file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.syspath_prepend(str(file.parent))
        spec.loader.exec_module(module)
        return module

    yield load
    for name in ("train", "tiny", "laptop", "full"):
        sys.modules.pop(name, None)


@pytest.fixture
def evaluated(program, tmp_path):
    """Runs the locked programs on a model, which is called as `predict` is: once with the rows,
    once with the twins. It gives for tokens [N, T] the arrays [N, T, D] and [V, D].
    """

    def run(model, rows, **variables):
        places = {"LABELS": tmp_path / "labels", "WORK": tmp_path / "work", "SECRET": 7}
        places |= {"KEY": tmp_path / "work/key", "PREDICTIONS": tmp_path / "predictions"}
        (tmp_path / "labels").mkdir()
        np.save(tmp_path / "labels/rows.npy", rows)
        settings = {**places, "VOCABULARY": VOCABULARY, "TWINS": 256, **variables}
        program("eval/prepare.py", **settings).main()
        for part in ("1", "2"):
            (tmp_path / "predictions" / part).mkdir(parents=True)
            hidden, unembedding = model(np.load(tmp_path / f"work/inputs/{part}/rows.npy"))
            np.save(tmp_path / f"predictions/{part}/hidden.npy", hidden)
            np.save(tmp_path / f"predictions/{part}/unembedding.npy", unembedding)
        program("eval/score.py", **settings).main()

    return run


VOCABULARY = 11
