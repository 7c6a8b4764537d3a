"""What a study refuses before it begins."""

import dataclasses

import pytest

from entigraph.arms.plan import (
    chosen_methods,
    chosen_shares,
    refuse,
    refuse_other_study,
    write_identity,
)
from entigraph.arms.stages import Given
from entigraph.generation.stages import Limits
from sbp_jax.config import DataConfig, Experiment, StudyConfig, TrainConfig
from sbp_jax.errors import UserError


@pytest.mark.parametrize(
    ("given", "source", "said"),
    [
        ({"library": "x"}, "toyworld", "--input and --questions belong together"),
        ({"questions": "y"}, "toyworld", "--input and --questions belong together"),
        ({"library": "x", "questions": "y"}, "toyworld", "--init_from is missing"),
        ({"model": "x"}, "toyworld", "the toy world has a model of its own"),
        ({}, "docstrings", "without --input the study is about the toy world"),
    ],
)
def test_what_does_not_belong_together_is_refused(given, source, said):
    experiment = Experiment(data=DataConfig(input=source))
    with pytest.raises(UserError, match=said):
        refuse(experiment, Given(**given))
    refuse(Experiment(), Given())


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ("raw,entigraf", "'entigraf' is none; there are raw, entigraph"),
        ("raw,raw", "one twice"),
        (" , ", "no method"),
    ],
)
def test_methods_are_of_those_that_there_are(methods, said):
    with pytest.raises(UserError, match=said):
        chosen_methods(Experiment(study=StudyConfig(methods=methods)))


@pytest.mark.parametrize(
    ("shares", "said"),
    [("0.5", "the last is 1"), ("0,1", "lie above 0"), ("half,1", "write it as '0.25,0.5,1'")],
)
def test_shares_end_with_everything(shares, said):
    with pytest.raises(UserError, match=said):
        chosen_shares(Experiment(study=StudyConfig(shares=shares)))
    assert chosen_shares(Experiment(study=StudyConfig(shares="1, 0.5"))) == [0.5, 1]


def test_a_workdir_is_of_one_study_to_which_methods_and_limits_may_be_added(tmp_path):
    refuse_other_study(Experiment(), Given(), tmp_path)
    first = Experiment(train=TrainConfig(tokens=5120))
    write_identity(first, Given(), tmp_path)
    more = dataclasses.replace(first, study=StudyConfig(methods="raw,qa", shares="0.5,1"))
    refuse_other_study(more, Given(limits=Limits(max_tokens=9)), tmp_path)
    other = dataclasses.replace(first, train=TrainConfig(tokens=5632))
    with pytest.raises(UserError, match="config.train.tokens: 5120 -> 5632.*use another"):
        refuse_other_study(other, Given(), tmp_path)
    with pytest.raises(UserError, match="engine: 'none' -> 'jax'"):
        refuse_other_study(first, Given(engine="jax"), tmp_path)
