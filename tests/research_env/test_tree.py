"""What a candidate may not do to a tree, whatever its diff says."""

import os

import pytest

from research_env import tree

ALL, ONE = ("**",), ("train.py", "lib/*.py")


@pytest.fixture
def trees(tmp_path):
    original = tmp_path / "original"
    for path in ("run.sh", "train.py", "model.py", "lib/a.py", "lib/deep/b.py", "pack/__init__.py"):
        (original / path).parent.mkdir(parents=True, exist_ok=True)
        (original / path).write_text(f"# {path}\n")
    tree.copy(original, tmp_path / "patched")
    return original, tmp_path / "patched"


def write(place, path):
    (place / path).parent.mkdir(parents=True, exist_ok=True)
    (place / path).write_text("x = 1\n")


def test_an_unchanged_tree_and_changes_where_they_may_be_are_fine(trees):
    original, patched = trees
    assert tree.violation(original, patched, ONE) is None
    for path in ("train.py", "lib/a.py", "lib/new.py"):
        write(patched, path)
    assert tree.violation(original, patched, ONE) is None
    (patched / "lib/a.py").unlink()
    assert tree.violation(original, patched, ONE) is None


@pytest.mark.parametrize(
    ("path", "globs"), [("run.sh", ONE), ("lib/deep/b.py", ONE), ("lib/x.txt", ONE), ("new", ONE)]
)
def test_what_is_not_editable_may_not_be_changed_added_or_deleted(trees, path, globs):
    original, patched = trees
    write(patched, path)
    assert path in (tree.violation(original, patched, globs) or "")
    (patched / path).unlink()
    if (original / path).exists():
        assert f"{path}' was deleted" in (tree.violation(original, patched, globs) or "")


def test_a_protected_file_may_not_become_executable(trees):
    original, patched = trees
    (patched / "run.sh").chmod(0o755)
    assert "run.sh" in (tree.violation(original, patched, ONE) or "")


@pytest.mark.parametrize(
    "path",
    ["sitecustomize.py", "usercustomize.py", "conftest.py", "lib/conftest.py", "x.pth", "x.pyc",
     "lib/__pycache__/a.cpython-311.pyc", "native.so", "json.py", "json/__init__.py", "numpy.py",
     "numpy/linalg.py", "model/__init__.py", "model/x.py", "pack.py", "RUN.SH", "lib/A.py",
     ".git/config", ".env", "lib/.x/y.py", "a\nb.py", "a\\b.py", "pyvenv.cfg"],
)  # fmt: skip
def test_files_that_act_by_being_there_are_refused_even_where_all_may_be_changed(trees, path):
    original, patched = trees
    write(patched, path)
    assert tree.violation(original, patched, ALL)


@pytest.mark.parametrize("path", ["helper.py", "lib/deep/c.py", "models/x.py", "notes.txt"])
def test_other_new_files_are_fine_where_all_may_be_changed(trees, path):
    original, patched = trees
    write(patched, path)
    assert tree.violation(original, patched, ALL) is None


def test_links_pipes_and_second_names_are_refused(trees, tmp_path):
    original, patched = trees
    for make in (
        lambda p: p.symlink_to("/etc/passwd"),
        lambda p: p.symlink_to("run.sh"),
        lambda p: p.symlink_to(tmp_path),
        lambda p: os.mkfifo(p),
        lambda p: os.link(patched / "run.sh", p),
    ):
        make(patched / "lib" / "x.py")
        assert tree.violation(original, patched, ALL)
        (patched / "lib" / "x.py").unlink()
    assert tree.violation(original, patched, ALL) is None


@pytest.mark.parametrize(
    ("glob", "inside", "outside"),
    [
        ("train.py", ["train.py"], ["lib/train.py", "trainXpy", "train.pyc"]),
        ("*.py", ["a.py"], ["lib/a.py", "a.pyc"]),
        ("lib/**", ["lib/a.py", "lib/deep/b.py"], ["library/a.py", "a.py"]),
        ("lib", ["lib/a.py", "lib/deep/b.py"], ["library/a.py"]),
        ("**/*.py", ["a.py", "lib/deep/b.py"], ["a.txt"]),
        ("?.py", ["a.py"], ["ab.py", "/.py"]),
    ],
)
def test_globs(glob, inside, outside):
    assert all(tree.matches(path, [glob]) for path in inside)
    assert not any(tree.matches(path, [glob]) for path in outside)


def test_a_file_changed_within_one_tick_of_the_clock_is_seen(tmp_path):
    write(tmp_path, "a.py")
    before = tree.stamps(tmp_path)
    (tmp_path / "a.py").write_text("x = 2\n")  # as long as before
    assert tree.changed(before, tree.stamps(tmp_path)) == "a.py"
