"""The journal: whatever its writer's end, all whole records are there, and nothing else is."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbp_jax.errors import UserError
from sbp_jax.inference.bulk.journal import Journal, read

RECORDS = [["first", 1], ["zweiter ✓", "x" * 300], {"third": None}, ["\0", 0.1]]


def write(path, records=RECORDS):
    journal = Journal(path)
    for record in records:
        journal.append(record)
    journal.close()


def test_what_is_appended_is_read_in_order_also_after_opening_again(tmp_path):
    path = tmp_path / "journal"
    write(path)
    write(path, [["later"]])
    assert list(read(path)) == [*RECORDS, ["later"]]


def test_cut_anywhere_it_keeps_the_whole_records_and_says_what_it_dropped(tmp_path, caplog):
    path, ends = tmp_path / "journal", [0]
    for record in RECORDS:
        write(path, [record])
        ends.append(path.stat().st_size)
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        caplog.clear()
        path.write_bytes(whole[:length])
        number = sum(end <= length for end in ends) - 1
        write(path, [["after"]])
        assert list(read(path)) == [*RECORDS[:number], ["after"]]
        dropped = f"dropped its last {length - ends[number]} bytes" in caplog.text
        assert dropped == (length not in ends)


@given(tail=st.binary(min_size=1, max_size=64) | st.integers(1, 64).map(bytes))
def test_what_is_no_record_is_not_read_as_one_not_even_zeros(tmp_path_factory, tail):
    path = tmp_path_factory.mktemp("journal") / "journal"
    write(path)
    with path.open("ab") as file:
        file.write(tail)
    assert list(read(path)) == RECORDS
    write(path, [["after"]])
    assert list(read(path)) == [*RECORDS, ["after"]]


def test_a_record_that_a_disk_has_damaged_costs_itself_alone(tmp_path, caplog):
    path = tmp_path / "journal"
    write(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"zweiter")] ^= 1
    path.write_bytes(data)
    others = [RECORDS[0], *RECORDS[2:]]
    assert list(read(path)) == others
    write(path, [["after"]])
    assert list(read(path)) == [*others, ["after"]]
    assert "passed over 1 records that are damaged" in caplog.text


def test_half_a_surrogate_pair_does_not_spoil_the_others(tmp_path):
    path = tmp_path / "journal"
    write(path, [["a", "half \ud83d"], ["b", "whole 😀"]])
    assert list(read(path)) == [["a", "half ?"], ["b", "whole 😀"]]


def test_a_disk_that_fills_up_is_one_line_and_leaves_whole_records(tmp_path):
    path = tmp_path / "journal"
    script = (
        "import pathlib, resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"  # an error in place of the signal
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from sbp_jax.errors import UserError\n"
        "from sbp_jax.inference.bulk.journal import Journal\n"
        "journal = Journal(pathlib.Path(sys.argv[1]))\n"
        "try:\n"
        "    for i in range(1000): journal.append([i, 'x' * 100])\n"
        "except UserError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path}: cannot write: ") and done.stdout.count("\n") == 1
    assert [record[0] for record in read(path)] == list(range(len(list(read(path)))))
    assert 0 < path.stat().st_size <= 1000
    write(path, [["after"]])
    assert list(read(path))[-1] == ["after"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere/journal: cannot write"):
        Journal(tmp_path / "nowhere" / "journal")
