"""Diffs as models write them: applied where they belong, or refused, and never at another place."""

import itertools
import os
import random
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research_env.patching import diff_text, hunks, merge, patch
from research_env.patching.patch import Applied, PatchFailed

ALL = ("**",)
REAL = [Path(module.__file__ or "").read_text() for module in (patch, hunks, diff_text, merge)]
TRAIN = """import os

STEPS = 100
RATE = 0.1


def train(draw):
    weight = draw()
    for step in range(STEPS):
        weight -= RATE * weight
    return weight


if __name__ == "__main__":
    print(train(float))
"""


PLACE = tempfile.TemporaryDirectory(prefix="patches-")  # for thousands of small trees
NUMBERS = itertools.count()


def fresh_folder():
    folder = Path(PLACE.name) / str(next(NUMBERS))
    folder.mkdir()
    return folder


def tree(folder, **files):
    for name, text in files.items():
        write(folder, name.replace("__", "/").replace("_py", ".py").replace("_sh", ".sh"), text)
    return folder


def write(folder, path, text):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(text.encode())


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes().decode()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def applied(folder, diff, editable=ALL, base=None):
    result = patch.apply(folder, diff, editable, base)
    assert isinstance(result, Applied), result
    return result


def failed(folder, diff, editable=ALL, base=None):
    before = contents(folder)
    result = patch.apply(folder, diff, editable, base)
    assert isinstance(result, PatchFailed), result
    assert "\n" not in result.reason
    assert contents(folder) == before  # as a whole or not at all
    return result


texts = st.text(st.sampled_from("ab\n\n\r\t ☃\x0c\u2028"), max_size=40)
paths = st.sampled_from(["a.py", "b.py", "c/d.py", "c/e f.py", "ü.py", 'q"x.py'])
trees = st.dictionaries(paths, st.tuples(texts, st.booleans()), max_size=5)


@given(trees, trees)
@settings(max_examples=150)
def test_a_diff_of_two_trees_turns_the_one_into_the_other(old, new):
    folder = fresh_folder()
    for name, files in (("old", old), ("new", new)):
        (folder / name).mkdir()
        for path, (text, executable) in files.items():
            write(folder / name, path, text)
            (folder / name / path).chmod(0o755 if executable else 0o644)
    diff = patch.make_diff(folder / "old", folder / "new")
    result = applied(folder / "old", diff)
    assert not result.inexact
    assert contents(folder / "old") == contents(folder / "new")
    for path, (_, executable) in new.items():
        assert os.access(folder / "old" / path, os.X_OK) == executable
    assert patch.make_diff(folder / "old", folder / "new") == ""


def test_git_applies_what_make_diff_writes_and_we_apply_what_git_writes(tmp_path):
    draw = random.Random(0)
    for i in range(8):
        old = {f"f{k}.py": edited(draw, draw.choice(REAL)) for k in range(3)}
        new = {name: edited(draw, text) for name, text in old.items()}
        new |= {"new/file.py": "new\n"}
        new.pop(draw.choice(sorted(old)))
        for name, files in (("old", old), ("new", new)):
            for path, text in files.items():
                write(tmp_path / f"{i}{name}", path, text)
        by_git = subprocess.run(
            ["git", "diff", "--no-index", "--find-renames", f"{i}old", f"{i}new"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
        by_git = re.sub(rf"([ab]/){i}(?:old|new)/", r"\1", by_git)
        by_git = re.sub(rf"((?:rename|copy) (?:from|to) ){i}(?:old|new)/", r"\1", by_git)
        ours = patch.make_diff(tmp_path / f"{i}old", tmp_path / f"{i}new")
        for name, text in (("git", by_git), ("ours", ours)):
            for path, content in old.items():
                write(tmp_path / f"{i}{name}", path, content)
            assert text
            if name == "git":
                applied(tmp_path / f"{i}{name}", text)
            else:
                subprocess.run(
                    ["git", "apply"],
                    cwd=tmp_path / f"{i}{name}",
                    env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)},
                    input=text,
                    text=True,
                    check=True,
                )
            assert contents(tmp_path / f"{i}{name}") == new


def edited(draw, text):
    lines = text.splitlines(keepends=True)
    for _ in range(draw.randint(1, 5)):
        at = draw.randrange(len(lines))
        kind = draw.choice(("change", "add", "remove"))
        new = [f"{'    ' * draw.randint(0, 2)}value_{draw.randrange(10**6)} = {draw.random()}\n"]
        lines[at : at + (kind != "add") * draw.randint(1, 3)] = new * (kind != "remove")
    return "".join(lines)


def wrong_counts(draw, diff):
    return re.sub(
        r"^@@ -(\d+),\d+ \+(\d+),\d+ @@",
        lambda m: f"@@ -{m[1]},{draw.randint(1, 30)} +{m[2]},{draw.randint(1, 30)} @@",
        diff, flags=re.MULTILINE,
    )  # fmt: skip


def wrong_lines(draw, diff):
    return re.sub(
        r"^@@ -\d+,(\d+) \+\d+,(\d+) @@",
        lambda m: f"@@ -{draw.randint(1, 400)},{m[1]} +{draw.randint(1, 400)},{m[2]} @@",
        diff, flags=re.MULTILINE,
    )  # fmt: skip


def no_numbers(draw, diff):
    return re.sub(r"^@@ .*? @@", "@@", diff, flags=re.MULTILINE)


def stripped_blank_lines(draw, diff):
    return re.sub(r"^ $", "", diff, flags=re.MULTILINE)


def prose_and_fence(draw, diff):
    return f"Here is the change:\n\n```diff\n{diff}```\n\nIt makes training faster.\n"


def no_prefixes(draw, diff):
    lines = [line for line in diff.split("\n") if not line.startswith("diff --git")]
    return re.sub(r"^(---|\+\+\+) [ab]/", r"\1 ", "\n".join(lines), flags=re.MULTILINE)


def crlf(draw, diff):
    return diff.replace("\n", "\r\n")


def no_final_newline(draw, diff):
    return diff.removesuffix("\n")


MUTATIONS = [wrong_counts, wrong_lines, no_numbers, stripped_blank_lines, prose_and_fence,
             no_prefixes, crlf, no_final_newline]  # fmt: skip


@given(st.randoms(use_true_random=False), st.lists(st.sampled_from(MUTATIONS), max_size=4))
@settings(max_examples=150)
def test_a_mutated_real_diff_gives_its_own_result_or_is_refused(draw, mutations):
    folder = fresh_folder()
    old = draw.choice(REAL)
    new = edited(draw, old)
    write(folder / "old", "train.py", old)
    write(folder / "new", "train.py", new)
    diff = patch.make_diff(folder / "old", folder / "new")
    for mutate in dict.fromkeys(mutations):
        diff = mutate(draw, diff)
    result = patch.apply(folder / "old", diff, ALL)
    if isinstance(result, Applied):
        assert contents(folder / "old") == {"train.py": new}
    else:  # only lines that occur twice leave a doubt
        assert "more than once" in result.reason or "only adds lines" in result.reason, result


@given(st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_a_diff_for_an_older_file_is_merged_with_what_has_changed_since(draw):
    folder = fresh_folder()
    base = draw.choice(REAL)
    lines = base.splitlines(keepends=True)
    half = len(lines) // 2
    above = edited(draw, "".join(lines[: half - 4]))
    between = "".join(lines[half - 4 : half + 4])
    below = edited(draw, "".join(lines[half + 4 :]))
    write(folder / "base", "train.py", base)
    write(folder / "theirs", "train.py", "".join(lines[: half - 4]) + between + below)
    write(folder / "ours", "train.py", above + between + "".join(lines[half + 4 :]))
    diff = patch.make_diff(folder / "base", folder / "theirs")
    result = patch.apply(folder / "ours", diff, ALL, base=folder / "base")
    if isinstance(result, Applied):
        assert contents(folder / "ours") == {"train.py": above + between + below}
    else:
        assert "more than once" in result.reason


def test_both_changing_one_line_is_a_conflict_and_not_a_choice(tmp_path):
    tree(tmp_path / "base", train_py=TRAIN)
    tree(tmp_path / "ours", train_py=TRAIN.replace("RATE = 0.1", "RATE = 0.2"))
    tree(tmp_path / "theirs", train_py=TRAIN.replace("RATE = 0.1", "RATE = 0.3"))
    diff = patch.make_diff(tmp_path / "base", tmp_path / "theirs")
    assert "changed meanwhile" in failed(tmp_path / "ours", diff, base=tmp_path / "base").reason
    failed(tmp_path / "ours", diff)


def test_context_that_has_moved_on_is_kept_as_the_file_has_it(tmp_path):
    tree(tmp_path / "base", train_py=TRAIN)
    tree(tmp_path / "new", train_py=TRAIN.replace("RATE * weight", "RATE * weight**3"))
    drifted = TRAIN.replace("def train(draw):", "def train(draw):  # by hand")
    tree(tmp_path / "ours", train_py=drifted)
    result = applied(tmp_path / "ours", patch.make_diff(tmp_path / "base", tmp_path / "new"))
    assert result.inexact == ("train.py",)
    wanted = drifted.replace("RATE * weight", "RATE * weight**3")
    assert contents(tmp_path / "ours") == {"train.py": wanted}


def test_lines_that_occur_twice_are_not_guessed(tmp_path):
    tree(tmp_path, train_py="x = 1\ny = 2\n" * 2)
    diff = "--- a/train.py\n+++ b/train.py\n@@ @@\n-x = 1\n+x = 3\n"
    assert "more than once" in failed(tmp_path, diff).reason


def test_a_misfit_says_which_hunk_and_what_is_near(tmp_path):
    tree(tmp_path, train_py=TRAIN)
    diff = "--- a/train.py\n+++ b/train.py\n@@ -4,1 +4,1 @@\n-RATE = 0.10\n+RATE = 0.2\n"
    reason = failed(tmp_path, diff).reason
    assert "hunk 1 (line 4)" in reason and "line is 4: 'RATE = 0.1'" in reason


def test_a_hunk_that_a_line_without_its_sign_cuts_in_two_is_not_applied_by_half(tmp_path):
    tree(tmp_path, train_py=TRAIN)
    diff = (
        "--- a/train.py\n+++ b/train.py\n@@ -1,9 +1,9 @@\n import os\n \n-STEPS = 100\n+STEPS = 9\n"
    )
    diff += "RATE = 0.1\n \n \n-def train(draw):\n+def train(draws):\n"
    assert "'RATE = 0.1' begins with neither" in failed(tmp_path, diff).reason
    diff = diff.replace("\nRATE", "\n RATE")
    applied(tmp_path, diff + "\nThis is better.\n")
    wanted = TRAIN.replace("STEPS = 100", "STEPS = 9").replace("train(draw)", "train(draws)", 1)
    assert contents(tmp_path) == {"train.py": wanted}


def test_search_replace_blocks(tmp_path):
    tree(tmp_path, train_py=TRAIN)
    reply = """Two changes.

train.py
```python
<<<<<<< SEARCH
STEPS = 100
=======
STEPS = 200
>>>>>>> REPLACE
```

and with other indentation:

train.py
<<<<<<< SEARCH
for step in range(STEPS):
    weight -= RATE * weight
=======
for step in range(STEPS):
    rate = RATE / (1 + step)
    weight -= rate * weight
>>>>>>> REPLACE

new/schedule.py
<<<<<<< SEARCH
=======
HALF = 0.5
>>>>>>> REPLACE
"""
    applied(tmp_path, reply)
    wanted = TRAIN.replace("STEPS = 100", "STEPS = 200").replace(
        "        weight -= RATE",
        "        rate = RATE / (1 + step)\n        weight -= rate",
    )
    assert contents(tmp_path) == {"train.py": wanted, "new/schedule.py": "HALF = 0.5\n"}


def test_a_block_needs_no_path_where_one_file_only_may_be_changed(tmp_path):
    tree(tmp_path, train_py=TRAIN, run_sh="python train.py\n")
    block = "<<<<<<< SEARCH\nRATE = 0.1\n=======\nRATE = 0.2\n>>>>>>> REPLACE\n"
    assert applied(tmp_path, block, ("train.py",)).paths == ("train.py",)
    assert "path" in failed(tmp_path, block).reason


def test_whole_files(tmp_path):
    tree(tmp_path, train_py=TRAIN)
    reply = (
        "**`train.py`**\n```python\nprint(1)\n```\n\nFile: notes/why.md\n````\n```\nx\n```\n````\n"
    )
    applied(tmp_path, reply)
    assert contents(tmp_path) == {"train.py": "print(1)\n", "notes/why.md": "```\nx\n```\n"}


def test_new_renamed_and_deleted_files(tmp_path):
    tree(tmp_path, train_py=TRAIN, old_py="x = 1\ny = 2\n")
    diff = """diff --git a/old.py b/young.py
similarity index 50%
rename from old.py
rename to young.py
--- a/old.py
+++ b/young.py
@@ -1,2 +1,2 @@
 x = 1
-y = 2
+y = 3
diff --git a/train.py b/train.py
deleted file mode 100644
--- a/train.py
+++ /dev/null
""" + "@@ -1,15 +0,0 @@\n" + "".join(f"-{line}\n" for line in TRAIN.splitlines()) + """\
--- /dev/null
+++ b/package/__init__.py
@@ -0,0 +1 @@
+z = 4
"""  # fmt: skip
    applied(tmp_path, diff)
    assert contents(tmp_path) == {"young.py": "x = 1\ny = 3\n", "package/__init__.py": "z = 4\n"}


def header(old, new, extra=""):
    return f"diff --git a/x b/x\n{extra}" if extra else f"--- {old}\n+++ {new}\n@@ -0,0 +1 @@\n+x\n"


@pytest.mark.parametrize(
    "diff",
    [
        header("/dev/null", "b/../eval/score.py"),
        header("/dev/null", "b/a/../../eval/score.py"),
        header("/dev/null", "/etc/passwd"),
        header("/dev/null", "b//etc/passwd"),
        header("/dev/null", "b/run.sh"),
        header("/dev/null", "b/a\\b.py"),
        header("/dev/null", '"b/a\\nb.py"'),
        header("/dev/null", "b/link/x.py"),
        header("a/run.sh", "/dev/null").replace("-0,0 +1", "-1 +0,0").replace("+x", "-bash"),
        header("", "", "new file mode 120000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+/labels\n"),
        header("", "", "new file mode 160000\n"),
        header("", "", "rename from run.sh\nrename to train2.py\n"),
        header("", "", "rename from train.py\nrename to run.sh\n"),
        header("", "", "copy from ../eval/score.py\ncopy to train2.py\n"),
        "../eval/score.py\n```\nprint(1)\n```\n",
        "/eval/score.py\n<<<<<<< SEARCH\n=======\nx\n>>>>>>> REPLACE\n",
    ],
)
def test_what_reaches_elsewhere_is_refused(tmp_path, diff):
    code = tmp_path / "code"
    tree(code, train_py=TRAIN, run_sh="bash\n")
    tree(tmp_path, eval__score_py="print(0)\n")
    (code / "link").symlink_to(tmp_path / "eval")
    before = contents(tmp_path)
    result = patch.apply(code, diff, ("*.py", "link/*.py"))
    assert isinstance(result, PatchFailed) and result.refused, result
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "diff",
    ["I would train longer.", "@@ -1 +1 @@\n-x\n+y\n", "GIT binary patch\n",
     "train.py\n<<<<<<< SEARCH\nx\n", "train.py\n<<<<<<< SEARCH\nRATE = 0.1\n>>>>>>> REPLACE\n",
     "--- a/train.py\n+++ b/train.py\n", "--- a/gone.py\n+++ b/gone.py\n@@ -1 +1 @@\n-x\n+y\n",
     "--- /dev/null\n+++ b/train.py\n@@ -0,0 +1 @@\n+x\n", "train.py\n```\nprint(1)\n",
     "--- /dev/null\n+++ b/train.py/x.py\n@@ -0,0 +1 @@\n+x\n",
     "--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n import os\n",
     "--- a/train.py\n+++ b/train.py\n@@ -3 +3 @@\n-STEPS = 100\nSTEPS = 9\n@@ -4 +4 @@\n-R\n+r\n"],
)  # fmt: skip
def test_what_cannot_be_applied_says_why_in_a_line(tmp_path, diff):
    tree(tmp_path, train_py=TRAIN)
    assert not failed(tmp_path, diff).refused


def test_windows_line_ends_stay_and_no_final_newline_stays(tmp_path):
    write(tmp_path, "train.py", "x = 1\r\ny = 2\r\nz = 3")
    diff = "--- a/train.py\n+++ b/train.py\n@@ -1,2 +1,3 @@\n x = 1\n-y = 2\n+y = 4\n+w = 5\n"
    applied(tmp_path, diff)
    assert contents(tmp_path) == {"train.py": "x = 1\r\ny = 4\r\nw = 5\r\nz = 3"}


@given(st.text(st.sampled_from("-+@ \n\\`<>=/dabtrin.py0123,"), max_size=200))
@settings(max_examples=300)
def test_any_text_is_applied_or_refused_but_never_an_error(text):
    folder = fresh_folder()
    tree(folder, train_py=TRAIN)
    patch.apply(folder, text, ("train.py",))
    assert set(contents(folder)) <= {"train.py"}


lists = st.lists(st.sampled_from("abc"), max_size=8)


@given(lists, lists, lists)
def test_a_merge_keeps_what_only_one_side_changed(base, ours, theirs):
    assert merge.merge(base, ours, base) == ours
    assert merge.merge(base, base, theirs) == theirs
    assert merge.merge(base, ours, ours) == ours
    assert merge.merge(base, ours, theirs) == merge.merge(base, theirs, ours)
