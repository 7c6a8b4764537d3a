"""The commands of the documentation's pages, one after the other, as they stand there."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run_page(page, folder, replaced=None):
    """In the folder, with a free port in place of the page's, and what else is replaced; what was
    printed.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    text = (ROOT / "docs" / page).read_text()
    for old, new in (replaced or {}).items():
        assert old in text, f"{page} has no {old!r}"
        text = text.replace(old, new)
    script = ["set -eu"]
    for kind, block in re.findall(r"```(python|bash)\n(.*?)```", text, re.DOTALL):
        block = block.replace("8011", port)
        if kind == "python":
            (folder / re.match(r"# (\w+\.py)\n", block)[1]).write_text(block)
        else:
            script.append(block)
    (folder / "page.sh").write_text("\n".join(script))
    (folder / "configs").symlink_to(ROOT / "configs")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XLA_FLAGS": "",  # one device, as a user's machine has
    }
    process = subprocess.Popen(
        ["bash", "page.sh"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    server = folder / "server.txt"
    said = server.read_text()[-2000:] if server.exists() else ""
    assert process.returncode == 0, f"{output[-4000:]}\n{said}"
    return output


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(1200)
def test_generation_runs_from_top_to_bottom(tmp_path):
    run_page("generation.md", tmp_path)
    greedy = (tmp_path / "jax.txt").read_text().splitlines()
    assert len(greedy) == 4 and len(set(greedy)) > 1
    assert (tmp_path / "api.txt").read_text().splitlines() == greedy


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_evaluation_runs_from_top_to_bottom(tmp_path):
    output = run_page("evaluation.md", tmp_path)
    scores = tmp_path / "scores"
    table = json.loads((scores / "jax" / "results.json").read_text())["table"]
    assert {row["benchmark"] for row in table} == {"OpenWebText2", "LAMBADA", "ARC-Easy"}
    found = json.loads((scores / "jax" / "contamination.json").read_text())["tasks"]
    assert len(found["openwebtext2"]["contaminated"]) == 40
    compared = (scores / "compared" / "comparison.md").read_text()
    assert compared in output and "win" in compared  # it has learnt in the second half
    thinking = json.loads((scores / "thinking" / "test_time.json").read_text())
    assert len(thinking["sequential"]["points"]) == 4 and not thinking["errors"]
