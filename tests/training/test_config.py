"""What a config may say, and what it is told when it may not."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbp_jax.config import (
    Experiment,
    Source,
    arm_and_words,
    differences,
    from_json,
    new_config,
    resolve,
    to_json,
)
from sbp_jax.config_rules import duration, profile_range
from sbp_jax.errors import UserError


def changed(**values):
    """The defaults with `section__field=value`."""
    config = new_config()
    for name, value in values.items():
        section, field = name.split("__")
        config[section][field] = value
    return config


def test_the_config_to_be_edited_holds_the_defaults():
    assert resolve(new_config()) == Experiment()


@pytest.mark.parametrize(
    ("section", "misspelt", "meant"),
    [
        ("model", "num_layer", "num_layers"),
        ("optimizer", "peek_lr", "peak_lr"),
        ("data", "sequence_len", "sequence_length"),
        ("train", "batchsize", "batch_size"),
    ],
)
def test_a_misspelt_field_names_the_nearest_one(section, misspelt, meant):
    config = new_config()
    with config.unlocked():
        config[section][misspelt] = 1
    with pytest.raises(UserError) as error:
        resolve(config)
    assert str(error.value) == (
        f"config.{section} has no field {misspelt!r}; did you mean {meant!r}?"
    )


def test_a_misspelt_section_and_a_misspelt_field_of_a_source_are_named():
    config = new_config()
    with config.unlocked():
        config.optimiser = {}
    with pytest.raises(UserError, match="config has no field 'optimiser'.*'optimizer'"):
        resolve(config)
    config = changed(data__mixture={"web": {"input": "a", "wait": 1.0}})
    with pytest.raises(UserError, match="config.data.mixture.web has no field 'wait'.*'weight'"):
        resolve(config)


NAN, INF = float("nan"), float("inf")
AT_LEAST_ONE = {
    "model": "num_layers d_model num_heads num_kv_heads head_dim d_ff vocab_size loss_chunks",
    "data": "sequence_length workers",
    "train": "tokens batch_size accumulate log_every max_skipped",
    "checkpoint": "every_steps keep",
    "eval": "max_sequences",
}


@pytest.mark.parametrize(
    ("section", "field"),
    [(section, field) for section, fields in AT_LEAST_ONE.items() for field in fields.split()],
)
def test_a_count_of_nothing_is_refused_by_name(section, field):
    with pytest.raises(UserError, match=f"config.{section}.{field} is 0; .* at least 1"):
        resolve(changed(**{f"{section}__{field}": 0}))


@pytest.mark.parametrize(
    ("field", "wrong", "needs"),
    [
        ("model.norm_eps", (0.0, -1e-5, NAN, INF), "above 0"),
        ("model.rope_theta", (1.0, 0.0, -5.0, NAN, INF), "above 1"),
        ("model.rope_scaling", (0.0, -1.0, NAN, INF), "above 0"),
        ("model.rope_original_context", (0,), "at least 1"),
        ("model.mup_base_width", (0, -1), "at least 1"),
        ("data.held_out", (-0.1, 1.0, NAN), "at least 0 and below 1"),
        ("optimizer.peak_lr", (0.0, -1.0, NAN, INF), "above 0"),
        ("optimizer.muon_lr", (0.0, -1.0, NAN, INF), "above 0"),
        ("optimizer.eps", (0.0, -1e-8, NAN), "above 0"),
        ("optimizer.beta1", (-0.1, 1.0, NAN), "at least 0 and below 1"),
        ("optimizer.beta2", (-0.1, 1.0, NAN), "at least 0 and below 1"),
        ("optimizer.muon_beta", (-0.1, 1.0, NAN), "at least 0 and below 1"),
        ("optimizer.weight_decay", (-0.1, NAN, INF), "at least 0"),
        ("optimizer.clip_norm", (-1.0, NAN, INF), "at least 0"),
        ("train.z_loss", (-1e-4, NAN, INF), "at least 0"),
        ("train.spike_factor", (1.0, NAN, INF), "above 1"),
        ("train.samples", (-1,), "at least 0"),
        ("checkpoint.keep_every_steps", (-1,), "at least 0"),
        ("eval.every_steps", (-1,), "at least 0"),
        ("toyworld.documents", (0, -1), "at least 1"),
        ("toyworld.held_out_documents", (-1,), "at least 0"),
        ("toyworld.fresh_documents", (-1,), "at least 0"),
        ("toyworld.concepts", (39, -1), "at least 40"),
        ("toyworld.zipf", (-0.1, NAN, INF), "at least 0"),
        ("toyworld.noise", (-0.1, 1.0, NAN), "at least 0 and below 1"),
        ("toyworld.ambiguous", (-0.1, 1.1, NAN), "from 0 to 1"),
    ],
)
def test_a_number_out_of_its_range_is_refused_with_the_range(field, wrong, needs):
    for value in wrong:
        with pytest.raises(UserError, match=f"^config.{field} is {value}; it has to be {needs}"):
            resolve(changed(**{field.replace(".", "__"): value}))


def test_the_ends_of_ranges_are_allowed():
    resolve(
        changed(
            optimizer__clip_norm=0.0,
            optimizer__beta1=0.0,
            optimizer__weight_decay=0.0,
            train__z_loss=0.0,
            train__samples=0,
            eval__every_steps=0,
            toyworld__held_out_documents=0,
            toyworld__concepts=40,
            toyworld__ambiguous=1.0,
        )
    )


@pytest.mark.parametrize("seed", [-(2**31) - 1, 2**31, 2**40])
def test_a_seed_that_jax_would_shorten_is_refused(seed):
    config = new_config()
    for fine in (-(2**31), -1, 0, 2**31 - 1):
        config.seed = fine
        assert resolve(config).seed == fine
    config.seed, config.seeds = 2**31 - 3, 3
    assert resolve(config).seeds == 3
    config.seeds = 4
    with pytest.raises(UserError, match="config.seeds=4 that begin with it"):
        resolve(config)
    config.seed = seed
    with pytest.raises(UserError, match=f"config.seed is {seed}; .* -2\\*\\*31 and 2\\*\\*31 - 1"):
        resolve(config)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "held_out", "a\n"])
def test_a_source_is_named_as_a_folder_may_be(name):
    resolve(changed(data__input="", data__mixture={"web-2_é": {"input": "a"}}))
    with pytest.raises(UserError, match="cannot be the name of a source"):
        resolve(changed(data__mixture={name: {"input": "a"}}))


@pytest.mark.parametrize(
    ("field", "allowed"),
    [
        ("model.parametrization", "mup_simple"),
        ("model.dtype", "bfloat16"),
        ("model.attention", "splash"),
        ("model.remat", "minimal"),
        ("mesh.platform", "tpu"),
        ("data.on_error", "skip"),
        ("data.tokenizer_kind", "unigram"),
        ("optimizer.name", "muon"),
        ("optimizer.schedule", "wsd"),
    ],
)
def test_a_choice_that_does_not_exist_is_told_which_do(field, allowed):
    name = field.replace(".", "__")
    resolve(changed(**{name: allowed}))
    with pytest.raises(UserError, match=f"config.{field} is 'bogus'; it is one of: .*'{allowed}'"):
        resolve(changed(**{name: "bogus"}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model__num_heads": 6, "model__num_kv_heads": 4},
            "config.model.num_heads=6 is not a multiple of config.model.num_kv_heads=4",
        ),
        ({"model__head_dim": 33}, "config.model.head_dim=33 is odd"),
        (
            {"model__loss_chunks": 3},
            "config.model.loss_chunks=3 does not divide config.data.sequence_length=128",
        ),
        (
            {"train__accumulate": 5},
            "config.train.accumulate=5 does not divide config.train.batch_size=32",
        ),
        ({"train__tokens": 10_000}, "train.tokens=10000 is no whole .* use 8192 or 12288"),
        ({"train__tokens": 100}, "train.tokens=100 is no whole number of steps .* use 4096$"),
        ({"data__input": ""}, "config.data.input is empty; name a corpus"),
        ({"model__rope_scaling_low": 4.0}, "rope_scaling_low=4.0 has to be below .*_high=4.0"),
        ({"optimizer__final_lr": 1.0}, "final_lr=1.0 has to lie between 0 and .*peak_lr=0.003"),
        ({"optimizer__final_lr": -1.0}, "final_lr=-1.0 has to lie between 0"),
        ({"optimizer__final_lr": NAN}, "final_lr=nan has to lie between 0"),
        ({"optimizer__warmup": "500 steps"}, "warmup='500 steps' .* more than the 400 of the run"),
        (
            {"optimizer__schedule": "wsd", "optimizer__decay": "99%"},
            "warmup='5%' and decay='99%' are 20 and 396 steps",
        ),
        ({"data__mixture": {"web": {"input": ""}}}, "config.data.mixture.web needs an input"),
        (
            {"data__mixture": {"web": {"input": "a", "weight": 0.0}}},
            "config.data.mixture.web needs an input and a finite weight above 0",
        ),
        (
            {"data__mixture": {"web": {"input": "a", "weight": INF}}},
            "config.data.mixture.web needs an input and a finite weight above 0",
        ),
        (
            {"data__mixture": {"web": {"input": "a", "max_passes": -1.0}}},
            "config.data.mixture.web.max_passes is -1.0; it has to be at least 0",
        ),
        ({"train__profile_steps": "ten"}, "config.train.profile_steps is 'ten'; write it as"),
        ({"train__profile_steps": "1-2-3"}, "profile_steps is '1-2-3'"),
        ({"train__profile_steps": "0-5"}, "profile_steps is '0-5'; steps count from 1"),
        ({"train__profile_steps": "9-5"}, "profile_steps is '9-5'; .* the first comes first"),
        ({"train__profile_steps": "399-401"}, "profile_steps is '399-401', but .* 400 steps"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_and_the_fields_are_named(values, message):
    with pytest.raises(UserError, match=message):
        resolve(changed(**values))


@pytest.mark.parametrize(
    ("path", "value", "kind"),
    [
        ("model.num_layers", 2.5, "int"),
        ("model.num_layers", True, "int"),
        ("optimizer.peak_lr", "fast", "float"),
        ("model.qk_norm", 1, "bool"),
        ("data.input", 3, "str"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(path, value, kind):
    section, field = path.split(".")
    values = {section: {field: value}}
    with pytest.raises(UserError, match=f"config.{path} is {value!r}; it has to be {kind}"):
        from_json(json.dumps(values))


def test_a_whole_number_will_do_for_a_rate():
    assert resolve(changed(optimizer__peak_lr=1.0)).optimizer.peak_lr == 1.0
    built = from_json('{"optimizer": {"peak_lr": 1}}').optimizer.peak_lr
    assert built == 1.0 and isinstance(built, float)


mixtures = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.builds(
        Source,
        input=st.text(max_size=8),
        weight=st.floats(0.01, 10),
        max_passes=st.floats(0, 8),
    ),
    max_size=3,
)


@given(st.integers(0, 2**31), mixtures, st.floats(1e-9, 1), st.booleans(), st.text(max_size=20))
def test_a_config_survives_its_json(seed, mixture, rate, flag, text):
    e = Experiment(seed=seed)
    e = dataclasses.replace(
        e,
        model=dataclasses.replace(e.model, qk_norm=flag),
        data=dataclasses.replace(e.data, mixture=mixture, input=text),
        optimizer=dataclasses.replace(e.optimizer, peak_lr=rate),
    )
    again = from_json(to_json(e))
    assert again == e
    assert differences(to_json(e), again) == []


def test_a_mixture_written_in_a_config_file_becomes_sources():
    config = new_config()
    config.data.mixture = {"web": {"input": "a"}, "books": {"input": "b", "weight": 3}}
    assert resolve(config).data.mixture == {"web": Source("a"), "books": Source("b", 3.0)}


def test_differences_name_each_field_that_changed_and_those_that_came_or_went():
    old = resolve(changed(data__mixture={"web": {"input": "a"}}))
    new = resolve(changed(train__log_every=5, data__mixture={"web": {"input": "b"}}))
    assert differences(to_json(old), new) == [
        "config.train.log_every: 10 -> 5",
        "config.data.mixture.web.input: 'a' -> 'b'",
    ]
    assert "config.data.mixture.web.input: 'a' -> None" in differences(to_json(old), Experiment())
    assert differences(to_json(Experiment()), Experiment()) == []
    assert differences('{"optimizer": {"gone": 1}}', Experiment()) == [
        "config.optimizer.gone: 1 -> None"
    ]  # of those that are not in it, all are as by default
    assert "config.train.log_every: 10 -> 5" in differences("{}", new)


STEPS, TOKENS_A_STEP = Experiment().num_steps, Experiment().tokens_per_step


@given(st.integers(0, 10**9))
def test_a_duration_in_steps_or_tokens_is_that_many_steps(n):
    for text in (f"{n} steps", f"{n} step", f"{n}steps", f" {n:_} steps "):
        assert duration(text, Experiment()) == n
    assert duration(f"{n * TOKENS_A_STEP} tokens", Experiment()) == n


@given(st.floats(0, 100))
def test_a_duration_in_percent_is_a_share_of_the_run(percent):
    assert duration(f"{percent}%", Experiment()) == round(STEPS * percent / 100)
    assert duration(f"{percent} %", Experiment()) == round(STEPS * percent / 100)


@pytest.mark.parametrize(
    ("text", "steps"),
    [("5%", 20), ("2000 steps", 2000), ("1e9 tokens", 244_141), ("1e2 steps", 100)],
)
def test_durations_are_read_as_the_help_writes_them(text, steps):
    assert duration(text, Experiment()) == steps


@pytest.mark.parametrize(
    "text",
    ["", "5", "%", "steps", "-5%", "101%", "-1 steps", "5 epochs", "five steps", "5 % steps"]
    + ["5%%", "nan%", "inf steps", "1e999 tokens", "5e%", "1 2 steps", "5 steps."],
)
def test_a_duration_in_no_known_form_is_refused_and_told_the_forms(text):
    with pytest.raises(UserError, match="is none of the forms '5%', '2000 steps', '1e9 tokens'"):
        duration(text, Experiment())


@given(st.text(alphabet="0123456789.eE+-_%stepokn ", max_size=12))
def test_any_text_is_a_duration_or_refused(text):
    try:
        assert duration(text, Experiment()) >= 0
    except UserError as error:
        assert repr(text) in str(error)


def test_words_after_the_colon_are_those_that_the_file_knows():
    assert arm_and_words("", "quick") == []
    assert arm_and_words("quick,sbp", "quick", "sbp") == ["quick", "sbp"]
    with pytest.raises(UserError, match="'quik' is not known; this file takes: quick, sbp"):
        arm_and_words("quik", "quick", "sbp")


def test_the_steps_to_profile_are_a_range_or_none():
    assert profile_range("") is None
    assert profile_range("100-110") == (100, 110)
