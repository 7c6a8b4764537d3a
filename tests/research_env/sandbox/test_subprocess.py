"""A mere process keeps some promises of a sandbox; those that it does not keep are listed here."""

import pytest
import sandbox_cases
from sandbox_cases import *  # noqa: F403

from research_env.sandbox import factory
from sbp_jax.errors import UserError

KIND = "subprocess"

# What docs/sandboxes.md says that it does not promise.
BROKEN = {
    "test_the_harness_is_no_module_of_it",
    "test_it_runs_in_work",
    "test_what_is_given_is_at_its_path_and_read_only",
    "test_what_is_given_cannot_be_changed",
    "test_it_finds_no_files_of_the_harness",
    "test_it_sees_no_other_process",
    "test_it_reads_no_environment_of_another_process",
    "test_there_is_no_network",
    "test_no_socket_of_this_machine_is_reached_by_name",
    "test_there_are_no_devices_but_harmless_ones",
    "test_it_has_no_privileges_and_gains_none",
    "test_its_temporary_folder_is_its_own",
    "test_the_disk_is_limited",
    "test_the_temporary_folder_is_part_of_the_disk",
    "test_shared_memory_is_limited_as_disk",
    "test_the_number_of_files_is_limited",
}
# Not even tried, for they would harm this machine.
HARMFUL = {
    "test_it_writes_nowhere_but_where_it_may",
    "test_its_signals_reach_nobody_else",
    "test_it_changes_no_setting_of_the_kernel",
    "test_a_fork_bomb_ends_with_its_sandbox",
}


@pytest.fixture(autouse=True)
def expectation(request):
    name = request.function.__name__
    if name in BROKEN | HARMFUL:
        run = name in BROKEN
        request.applymarker(pytest.mark.xfail(strict=True, run=run, reason="not promised"))


def test_the_list_of_what_it_does_not_promise_names_cases():
    assert {name for name in vars(sandbox_cases) if name.startswith("test_")} >= BROKEN | HARMFUL


def test_it_is_refused_unless_it_is_said_to_be_unsafe():
    with pytest.raises(UserError, match="--unsafe"):
        factory("subprocess")
