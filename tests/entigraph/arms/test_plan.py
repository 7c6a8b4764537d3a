"""What a study refuses before it begins."""

import pytest

from entigraph.arms.plan import chosen_methods, chosen_shares, refuse
from entigraph.arms.stages import Given
from sbp_jax.config import DataConfig, Experiment, StudyConfig
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
