"""Files in and out, and what is given."""

import contextlib
import os

import pytest
from sandbox_programs import python, run, said, write

from research_env.sandbox.protocol import Unreadable


def test_a_file_is_the_same_bytes_after_a_round(sandbox, tmp_path):
    content = bytes(range(256)) * 5000
    source = write(tmp_path / "source", content)
    source.chmod(0o755)
    sandbox.copy_in(source, "a/b/copy")
    assert said(run(sandbox, "test -x a/b/copy && cp -p a/b/copy /tmp/x && mv /tmp/x back")) == ""
    sandbox.read_out("back", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o755


def test_a_folder_is_the_same_tree_after_a_round(sandbox, tmp_path):
    code = tmp_path / "code"
    for name in ("run.sh", "src/ü/deep.py", ".hidden/x"):
        write(code / name, name)
    (code / "empty").mkdir()
    (code / "link").symlink_to("src/ü")
    sandbox.copy_in(code, "/work")
    assert said(run(sandbox, "cat link/deep.py; echo new > empty/new")) == "src/ü/deep.py"
    assert sandbox.read_out("/work", tmp_path / "out") == ()
    write(code / "empty/new", "new\n")

    def tree(top):
        return {
            str(path.relative_to(top)): path.read_bytes() if path.is_file() else None
            for path in sorted(top.rglob("*"))
        }

    assert tree(tmp_path / "out") == tree(code)


def test_work_lasts_from_one_program_to_the_next(sandbox):
    assert said(run(sandbox, "echo one > file; mkdir -p folder; chmod +x file")) == ""
    assert said(run(sandbox, "cat file; ls -d folder; test -x file")) == "one\nfolder\n"


def test_copying_in_writes_through_no_link(sandbox, tmp_path):
    """That the candidate has put where the harness writes next."""
    assert said(run(sandbox, "echo mine > kept; ln -s kept target; ln kept hard")) == ""
    for name in ("target", "hard"):
        sandbox.copy_in(write(tmp_path / "source", "new"), name)
    assert said(run(sandbox, "cat kept target hard")) == "mine\nnewnew"


def test_copying_in_follows_no_linked_folder(sandbox, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    said(run(sandbox, f"mkdir real; ln -s real inner; ln -s {outside} outer"))
    with pytest.raises(OSError):
        sandbox.copy_in(write(tmp_path / "source", "new"), "inner/file")
    with contextlib.suppress(OSError):  # where the link is kept
        sandbox.copy_in(write(tmp_path / "source", "new"), "outer/file")
    assert not list(outside.iterdir()) and said(run(sandbox, "ls real")) == ""


@pytest.mark.parametrize("target", ["../x", "/etc/x", "a/../../x", "/work/../x", "/"])
def test_copying_in_is_to_work_only(sandbox, tmp_path, target):
    with pytest.raises(ValueError, match="work"):
        sandbox.copy_in(write(tmp_path / "source", "new"), target)


@pytest.mark.parametrize("path", ["/etc/passwd", "../etc/passwd", "/work/../etc/passwd", "nothing"])
def test_reading_out_is_from_work_only(sandbox, tmp_path, path):
    with pytest.raises(Unreadable):
        sandbox.read_out(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_reading_out_follows_no_link_that_leads_out(sandbox, tmp_path):
    secret = write(tmp_path / "secret/file", "labels")
    said(
        run(
            sandbox, f"ln -s {secret} file; ln -s {secret.parent} folder; ln -s ../.. up; ln -s / r"
        )
    )
    for path in ("file", "folder/file", "folder", "up", "r/etc/passwd"):
        with pytest.raises(Unreadable):
            sandbox.read_out(path, tmp_path / "out")
    assert set(sandbox.read_out("/work", tmp_path / "all")) == {"file", "folder", "up", "r"}
    assert list((tmp_path / "all").iterdir()) == []


def test_links_that_stay_inside_come_out_as_links(sandbox, tmp_path):
    script = (
        "mkdir -p a/b; echo x > a/file; ln -s ../file a/b/back; ln -s a/b/../../.. out; ln -s a in"
    )
    said(run(sandbox, script))
    assert sandbox.read_out("/work", tmp_path / "out") == ("out",)
    assert (tmp_path / "out/a/b/back").read_text() == "x\n"
    assert os.readlink(tmp_path / "out/in") == "a"
    assert sandbox.read_out("a/b", tmp_path / "below") == ("back",)  # out of what is read


def test_hard_links_come_out_as_files_of_their_own(sandbox, tmp_path):
    said(run(sandbox, "echo one > a; ln a b"))
    sandbox.read_out("/work", tmp_path / "out")
    write(tmp_path / "out/a", "two")
    assert (tmp_path / "out/b").read_text() == "one\n"


def test_what_is_no_file_is_left_out(sandbox, tmp_path):
    script = "import os, socket; os.mkfifo('pipe'); socket.socket(socket.AF_UNIX).bind('s')"
    said(python(sandbox, f"{script}; open('f', 'w')"))
    assert set(sandbox.read_out("/work", tmp_path / "out")) == {"pipe", "s"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["f"]
    with pytest.raises(Unreadable):
        sandbox.read_out("pipe", tmp_path / "pipe")


def test_reading_out_has_a_limit_that_holes_count_for(sandbox, tmp_path):
    said(run(sandbox, "mkdir d; for i in 1 2 3; do truncate -s 1M d/$i; done"))
    sandbox.read_out("d", tmp_path / "out", most_mb=3)
    with pytest.raises(Unreadable, match="2 MB"):
        sandbox.read_out("d", tmp_path / "less", most_mb=2)


def test_a_folder_without_end_is_refused(sandbox, tmp_path):
    script = "import os\nfor _ in range(400): os.mkdir('d'); os.chdir('d')"
    said(python(sandbox, script))
    with pytest.raises(Unreadable, match="deep"):
        sandbox.read_out("/work", tmp_path / "out")


def test_files_without_permissions_are_read_all_the_same(sandbox, tmp_path):
    said(run(sandbox, "mkdir closed; echo x > closed/file; chmod 0 closed/file closed"))
    sandbox.read_out("closed", tmp_path / "out")
    assert (tmp_path / "out/file").read_text() == "x\n"


def test_what_is_given_is_at_its_path_and_read_only(open_sandbox, tmp_path):
    data = write(tmp_path / "data/inputs.txt", "inputs").parent
    single = write(tmp_path / "single", "one file")
    with open_sandbox({"/data": data, "/work/given": data, "/key": single}) as sandbox:
        script = "cat /data/inputs.txt /work/given/inputs.txt /key"
        assert said(run(sandbox, script)) == "inputsinputsone file"


def test_what_is_given_is_read_though_it_is_the_harnesss_alone(open_sandbox, tmp_path):
    data = write(tmp_path / "data/below/inputs.txt", "inputs").parents[1]
    for path in (data, data / "below", data / "below/inputs.txt"):
        path.chmod(0o700)
    with open_sandbox({"/data": data}) as sandbox:
        assert said(run(sandbox, "cat $SANDBOX_ROOT/data/below/inputs.txt")) == "inputs"


def test_what_is_given_cannot_be_changed(open_sandbox, tmp_path):
    data = write(tmp_path / "data/inputs.txt", "inputs").parent
    data.chmod(0o777), (data / "inputs.txt").chmod(0o666)
    with open_sandbox({"/data": data}) as sandbox:
        attempts = (
            "echo x > inputs.txt",
            "touch new",
            "rm -f inputs.txt",
            "mv inputs.txt other",
            "chmod 600 inputs.txt",
            "ln inputs.txt $OLDPWD/linked && echo x > $OLDPWD/linked",
            "ln -s $PWD/inputs.txt $OLDPWD/soft && echo x > $OLDPWD/soft",
        )
        script = "\n".join(f"({attempt}) && echo '{attempt}'" for attempt in attempts)
        assert run(sandbox, f"cd $SANDBOX_ROOT/data\n{script}").stdout == b""
    assert [path.read_text() for path in data.iterdir()] == ["inputs"]
