"""The Python in the README runs as it stands there."""

import re
from pathlib import Path

import pytest

from sbp_jax import config
from sbp_jax.train import train

SETTINGS = {
    "model": dict(num_layers=1, d_model=64, num_heads=2, num_kv_heads=1, d_ff=64, vocab_size=300),
    "data": dict(sequence_length=32),
    "train": dict(batch_size=8, tokens=256 * 6, tensorboard=False, samples=1),
}


@pytest.fixture(scope="module")
def snippets():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)


def test_the_mixture_config_trains_and_the_snippet_uses_the_model(
    snippets, tmp_path, monkeypatch, capsys
):
    mixture, usage = snippets
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("Once upon a time there was a small village. " * 20)
    (tmp_path / "books" / "b.txt").write_text("The village had a well, a deep one at that. " * 20)
    (tmp_path / "web.jsonl").write_text('{"text": "a page about wells and villages"}\n' * 40)
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    exec(mixture, namespace)
    chosen = namespace["get_config"]()
    assert set(chosen.data.mixture) == {"books", "web"}
    for section, fields in SETTINGS.items():
        chosen[section].update(fields)
    chosen.data.mixture.web.max_passes = 0.0  # forty lines do not last for a third of the run
    train(config.resolve(chosen), "runs/mine")
    capsys.readouterr()
    exec(usage, {})
    assert capsys.readouterr().out.strip()
