"""The text of a compiled program, as the compiler writes it, cut to what is read of it."""

import pytest

from sbp_jax.tpu_program import UnreadableProgram, read_program

PROGRAM = """
HloModule jit_step

%start_gather (p: bf16[4,8]) -> bf16[16,8] {
  ROOT %all-gather.1 = bf16[16,8]{1,0} all-gather(%p), channel_id=1, dimensions={0}
}

%go_on_gathering (p: bf16[4,8]) -> bf16[16,8] {
  ROOT %all-gather.2 = bf16[16,8]{1,0} all-gather(%p), channel_id=1, dimensions={0}
}

%scatter (p: f32[16]) -> f32[4] {
  %all-reduce.1 = f32[16]{0} all-reduce(%p), channel_id=2, to_apply=%add
  ROOT %dynamic-slice.1 = f32[4]{0} dynamic-slice(%all-reduce.1, %i), dynamic_slice_sizes={4}
}

%body (state: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %a = bf16[16,8]{1,0} fusion(%x), calls=%start_gather, config={"estimated_cycles":"100"}
  %b = bf16[16,8]{1,0} fusion(%x), calls=%go_on_gathering, config={"estimated_cycles":"10"}
  %c = f32[4]{0} fusion(%x), kind=kCustom, calls=%scatter
}

%condition (state: (s32[], bf16[4,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(CONSTANT)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (arg: bf16[4,8]) -> f32[] {
  %loop = (s32[], bf16[4,8]{1,0}) while(%init), condition=%condition, body=%body
  %both = (f32[2,3]{1,0}, f32[]) all-reduce(%y, %z), channel_id=3, to_apply=%add
  %s = (bf16[8], bf16[8], u32[], u32[]) collective-permute-start(%w), channel_id=4
  %updated = f32[4]{0} conditional(%index, %x, %y), branch_computations={%nothing, %update}
  ROOT %end = f32[] fusion(%loop), calls=%nothing, config={"estimated_cycles":"1"}
}

%update (x: f32[4]) -> f32[4] {
  %norm = f32[] all-reduce(%square), channel_id=5, to_apply=%add
  ROOT %moved = f32[4]{0} fusion(%x), calls=%nothing, config={"estimated_cycles":"1000"}
}

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%nothing (x: f32[]) -> f32[] {
  ROOT %same = f32[] copy(%x)
}
"""


def test_what_a_loop_holds_counts_as_often_as_it_turns_and_a_branch_once():
    program = read_program(PROGRAM.replace("CONSTANT", "3"))
    assert program.cycles == 3 * 110 + 1000 + 1
    assert program.collectives == {
        "all-gather": {"count": 3, "bytes": 3 * 16 * 8 * 2},  # one, in two fusions
        "reduce-scatter": {"count": 3, "bytes": 3 * 16 * 4},
        "all-reduce": {"count": 2, "bytes": 6 * 4 + 4 + 4},
        "collective-permute": {"count": 1, "bytes": 8 * 2},
    }


def test_a_loop_of_unknown_length_is_an_error():
    with pytest.raises(UnreadableProgram, match="no constant"):
        read_program(PROGRAM.replace("constant(CONSTANT)", "parameter(0)"))


def test_a_loop_whose_length_is_an_argument_turns_as_often_as_it_is_told():
    text = PROGRAM.replace("constant(CONSTANT)", "parameter(0)")
    assert read_program(text, turns_of_others=16).cycles == 16 * 110 + 1000 + 1
    # A constant one is not asked.
    constant = PROGRAM.replace("CONSTANT", "3")
    assert read_program(constant, turns_of_others=16) == read_program(constant)


def test_a_text_that_is_cut_short_is_an_error():
    for end in (PROGRAM.index("ENTRY"), PROGRAM.index("%nothing (x")):
        with pytest.raises(UnreadableProgram, match="cut short"):
            read_program(PROGRAM[: end - 5].replace("CONSTANT", "3"))
