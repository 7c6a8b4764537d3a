"""docs/reproduction.md: its shell runs, its commands are understood by their programs and resolve
at every scale, its figures are those of the plan, and on something tiny its stages
fit together.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "reproduction.md").read_text()
SCALES = {"200b_3b": "200b", "1t_3b": "1t", "1t_6b": "1t"}

# In place of `hf`: documents of the toy world in each of DCLM's files.
DOWNLOAD = """
import json, sys
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
import pyarrow as pa
from sbp_jax.config import ToyWorldConfig
from sbp_jax.data import toyworld
from sbp_jax.data.corpus import read_documents

folder = Path(sys.argv[sys.argv.index("--local-dir") + 1])
patterns = [sys.argv[i + 1] for i, word in enumerate(sys.argv) if word == "--include"]
texts = read_documents(toyworld.corpus("train", ToyWorldConfig(documents=12_000)), "stop")
for place in range(100) if patterns else ():
    local = f"global-shard_{{place // 10 + 1:02d}}_of_10/local-shard_{{place % 10}}_of_10"
    for number in range(279):
        path = f"{{local}}/shard_{{number:08d}}_processed.jsonl.zst"
        if any(fnmatch(path, pattern) for pattern in patterns):
            (folder / local).mkdir(parents=True, exist_ok=True)
            with pa.CompressedOutputStream(str(folder / path), "zstd") as stream:
                for d in islice(texts, {documents}):
                    stream.write(json.dumps({{"text": d.text, "url": d.id}}).encode() + b"\\n")
"""

# In place of `python`: what it is asked is written down, and done where a test wants that.
PYTHON = """#!{python}
import json, os, sys
words = sys.argv[1:]
if words[0] == "-c":
    os.execv({python!r}, [{python!r}, *words])
with open("asked.jsonl", "a") as file:
    file.write(json.dumps(words) + "\\n")
done = {done!r}
name = words[1] if words[0] == "-m" else words[0]
if name in done:
    words = [word for word in words if word != "--ray"]
    words = ["--engine=jax" if word == "--engine=vllm" else word for word in words]
    words = [word for word in words if word != "--config.pairing.engine=vllm"]
    words = [{workers!r} if word.startswith("--config.data.workers=") else word for word in words]
    os.execv({python!r}, [{python!r}, *words])
"""

# Each command's program with all but its main function: flags, arguments, the resolved config.
UNDERSTAND = """
import json, os, runpy, sys
from sbp_jax import cli

if sys.argv[1] == "programs":  # once, and not in every child
    import flax, grain, jax, optax, orbax.checkpoint, tensorstore

real, failed = cli.run, 0

def run(main, needs=("config", "workdir"), arguments=()):
    real(lambda *_: cli.CONFIG.value is not None and cli.experiment(), needs, arguments)

cli.run, cli.use_huge_pages = run, lambda: None
for line in open("asked.jsonl"):
    words = json.loads(line)
    child = os.fork()
    if not child:
        what, sys.argv = sys.argv[1], words[1:] if words[0] == "-m" else words
        if what == "configs":
            sys.argv = ["", *(word for word in words if word.startswith("--config"))]
            run(None, needs=())
        elif words[0] == "-m":
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        failed = 1
        print("not understood:", " ".join(words), file=sys.stderr)
sys.exit(failed)
"""


def shell(folder, scale, *, documents=0, done=(), configs=ROOT / "configs"):
    """Runs the page's shell in the folder; the commands that it asked for."""
    stubs = folder / "stubs"
    stubs.mkdir()
    (folder / "configs").symlink_to(configs)
    python = PYTHON.format(python=sys.executable, done=done, workers="--config.data.workers=2")
    download = DOWNLOAD.format(documents=documents)
    for name, text in (("python", python), ("hf", f"#!{sys.executable}\n{download}")):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    script = ["set -euo pipefail"]
    for kind, block in re.findall(r"```(python|bash)\n(.*?)```", PAGE, re.DOTALL):
        if kind == "python":
            (folder / re.match(r"# (\w+\.py)\n", block)[1]).write_text(block)
        else:
            script.append(block)
    text = "\n".join(script)
    assert text.count("RUN=1t_6b DATA=1t ") == 1
    text = text.replace("RUN=1t_6b DATA=1t ", f"RUN={scale} DATA={SCALES[scale]} ")
    environment = os.environ | {"PATH": f"{stubs}:{os.environ['PATH']}", "XLA_FLAGS": ""}
    ran = subprocess.run(
        ["bash", "-c", text], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    return [json.loads(line) for line in (folder / "asked.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scale", "what"), [("1t_6b", "programs"), ("1t_3b", "configs"), ("200b_3b", "configs")]
)
def test_every_command_is_understood(scale, what, tmp_path):
    """Whole programs at one scale: which flags they have does not depend on it."""
    found = tmp_path / "runs" / scale / "synthesizer" / "synthesizer.json"
    found.parent.mkdir(parents=True)
    found.write_text('{"checkpoint": "runs/synthesizer/checkpoints/100"}')
    asked = shell(tmp_path, scale)
    modules = {words[1].removeprefix("sbp_jax.") for words in asked if words[0] == "-m"}
    assert modules == {
        "aot", "plan", "train", "tokenize", "pair", "tune", "convert", "synthesize", "evaluate",
        "bootstrap",
    }  # fmt: skip
    corpora = {f.name: {*f.rglob("*.zst")} for f in (tmp_path / "data" / "dclm").iterdir()}
    sizes = {
        name: len(files) for name, files in corpora.items() if name not in ("files.txt", "raw")
    }
    assert sizes == {"10b": 73, "50b": 365, "200b": 1460, "482b": 3519, "held_out": 2}
    done = subprocess.run(
        [sys.executable, "-c", UNDERSTAND, what], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def plan(*flags):
    command = [sys.executable, "-m", "sbp_jax.plan", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("scale", SCALES)
def test_the_tables_are_those_that_the_plan_prints(scale):
    (command, shown) = re.search(
        rf"```bash\npython -m sbp_jax.plan (--config=configs/{scale}.py .*?)\n```\n\n(.*?)"
        r"(?=\n\n```|\n\nStages follow)",
        PAGE,
        re.DOTALL,
    ).groups()
    printed = plan(*command.replace("\\\n", " ").split())
    assert [line.rstrip() for line in printed.splitlines()] == shown.strip().splitlines()


def test_the_gpu_configs_docstring_has_the_computed_figures():
    says = (ROOT / "configs" / "gpu.py").read_text()
    command = re.search(r"python -m sbp_jax.plan (.*?)\n\n", says, re.DOTALL)[1]
    planned = json.loads(plan(*command.replace("\\\\\n", " ").split(), "--json"))
    stages = {stage["name"]: stage for stage in planned["stages"]}
    arm, drawn = stages["training: sbp"], stages["synthesis"]
    minutes = arm["seconds"] / 60
    says = " ".join(says.split())
    flops = f"{arm['flops']:.1e}".replace("+", "")
    assert f"{flops} model FLOPs an arm, {minutes:.0f} minutes at 25%" in says
    assert f"{2.5 * minutes:.0f} at 10%" in says and f"take {drawn['seconds'] / 3600:.1f} h" in says
    assert "150M kept" in says and 0.6 * drawn["tokens"] == pytest.approx(150e6, rel=0.02)


TINY = """
import runpy

def get_config(argument=""):
    config = runpy.run_path({path!r})["get_config"](argument)
    config.model.update(num_layers=1, d_model=64, num_heads=2, num_kv_heads=1, head_dim=32,
                        d_ff=128, vocab_size=512, remat="none", parametrization="standard")
    config.mesh.update(replica=1, fsdp=1)
    config.data.update(sequence_length=256, held_out=0.1)
    config.train.update(batch_size=8, tokens=20 * 8 * 256, log_every=10)
    config.optimizer.update(peak_lr=1e-2)
    config.checkpoint.update(every_steps=10, keep=1, keep_every_steps=0)
    config.eval.update(every_steps=10, max_sequences=8)
    config.pairing.update(embedder="lexical", model="", dimensions=64, pairs=0, min_score=0.1)
    config.tuning.update(tokens=6 * 8 * 256, batch_size=8, every_steps=3)
    config.synthesis.update(max_tokens=96, per_document=10)
    config.engine.update(batch_size=64, max_length=256)
    return config
"""


@pytest.mark.slow
def test_the_stages_fit_together_on_something_tiny(tmp_path):
    """All of the page's work at one scale, with a tiny model, but for vLLM, Ray and the TPUs."""
    (tmp_path / "tiny").mkdir()
    path = str(ROOT / "configs" / "200b_3b.py")
    (tmp_path / "tiny" / "200b_3b.py").write_text(TINY.format(path=path))
    for name in ("1t_6b", "1t_3b"):
        (tmp_path / "tiny" / f"{name}.py").symlink_to(ROOT / "configs" / f"{name}.py")
    stages = ["train", "tokenize", "pair", "tune", "convert", "synthesize"]
    done = ["prepare.py", "keep.py", *(f"sbp_jax.{stage}" for stage in stages)]
    folder = tmp_path / "page"
    folder.mkdir()
    shell(folder, "200b_3b", documents=3, done=done, configs=tmp_path / "tiny")
    runs = folder / "runs" / "200b_3b"
    arms = {
        a: json.loads((runs / a / "summary.json").read_text())
        for a in ("baseline", "oracle", "sbp")
    }
    assert {arm["tokens"] for arm in arms.values()} == {20 * 8 * 256}
    pairs = json.loads((runs / "pairs" / "manifest.json").read_text())
    assert pairs["counts"]["pairs"] > 50
    kept = json.loads((runs / "synthetic" / "kept" / "manifest.json").read_text())
    assert kept["counts"]["answers"] > 1000 and kept["tokens"] > 0.375 * 20 * 8 * 256
    tuned = json.loads((runs / "synthesizer" / "synthesizer.json").read_text())
    assert tuned["examples"]["held_out"]["examples"] > 0
