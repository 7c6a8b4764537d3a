"""JSON out of what models write: what is mended, what is not, and what the refusal says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbp_jax.errors import UserError
from sbp_jax.inference.api.structured import conform, schema_validator

PERSON = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "tags": {"type": "array"}},
        "required": ["name"],
    }
)


@pytest.mark.parametrize(
    "text, value",
    [
        ('{"name": "A"}', {"name": "A"}),
        ('```json\n{"name": "A"}\n```', {"name": "A"}),
        ('Sure [1], here it is: {"name": "A"} Anything else?', {"name": "A"}),
        ('{"name": "A", "tags": [1, 2,\n ],}', {"name": "A", "tags": [1, 2]}),
        ('{"name": "A", "tags": [1, 2]', {"name": "A", "tags": [1, 2]}),
        ('{"name": "A",', {"name": "A"}),
        ('{"name": ",]} \\" [{,}"}', {"name": ',]} " [{,}'}),
        ('{"nom": "A"} {"name": "B"}', {"name": "B"}),
    ],
)
def test_what_changes_no_content_is_mended(text, value):
    assert json.loads(conform(text, PERSON, whole=True)) == value


@pytest.mark.parametrize(
    "text, whole, reason",
    [
        ("I would rather not.", True, "not JSON"),
        ("", True, "not JSON"),
        ('{"name": "A', True, "not JSON"),  # the rest of the string is missing
        ('{"name": "A", "tags": [1, 2', True, "not JSON"),  # two brackets: who knows what else
        ('{"name": "A", "tags": [1, 2]', False, "cut off at max_tokens; not JSON"),
        ('{"name": "A", "tags": [1, 2}}', True, "not JSON"),
        ('{"name": 3}', True, r"^\$.name: 3 is not of type 'string'"),
        ('{"tags": []}', True, "'name' is a required property"),
        ('{"name": "A", "n": NaN}', True, "NaN"),
        ("[" * 100_000, True, "not JSON"),
    ],
)
def test_what_would_change_content_is_refused_with_the_reason(text, whole, reason):
    with pytest.raises(ValueError, match=reason):
        conform(text, PERSON, whole)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.lists(values) | st.dictionaries(st.text(), values), st.booleans())
def test_any_value_comes_back_out_of_prose_and_fences(value, escaped):
    text = json.dumps(value, ensure_ascii=escaped)
    for wrapped in (text, f"```json\n{text}\n```", f'Here "it" is: {text}. Done.'):
        assert json.loads(conform(wrapped, "{}", whole=True)) == value


def test_a_text_that_is_json_is_left_as_it_is():
    text = '{"name":"\\ud83d", "name": 1e400}'
    assert conform(f" {text}\n", "{}", whole=True) == text


@pytest.mark.parametrize("schema", ["{", "[]", '{"type": "person"}', '"object"'])
def test_what_is_no_schema_is_the_users_mistake(schema):
    with pytest.raises(UserError, match="not a JSON schema"):
        schema_validator(schema)
