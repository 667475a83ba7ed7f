"""Rules rebuild JSON from an allow-list."""

import json

import pytest
from msgspec import Raw

from tidegate.dialects import allowlist_rules
from tidegate.dialects.allowlist_rules import address, either, fields, has_address, items, scalar, schema, text, word
from tidegate.errors import MalformedRequest


def rebuild(rule, value):
    """Return the rebuilt value and the names of the dropped fields; `value` may be JSON as bytes."""
    dropped = set()
    found = rule(Raw(value if isinstance(value, bytes) else json.dumps(value).encode()), "x", dropped)
    return None if found is None else json.loads(bytes(found)), dropped


@pytest.mark.parametrize(
    ("rule", "value", "kept"),
    [
        (text, "http://a", "http://a"),
        (text, 5, None),
        (text, {"url": "a"}, None),
        (word, "low", "low"),
        (word, "a/b", None),
        (word, "a.png", None),
        (word, ["low"], None),
        (scalar, 5, 5),
        (scalar, True, True),
        (scalar, "5", None),
        (items(word), ["a", "/b", 5], ["a"]),
        (items(word), "a", None),
        (either(text, items(text)), ["a"], ["a"]),
        (either(text, items(text)), {}, None),
    ],
)
def test_a_value_that_a_rule_accepts_is_kept(rule, value, kept):
    assert rebuild(rule, value)[0] == kept


def test_unknown_fields_are_left_out_and_named():
    rule = fields(a=text, b=items(fields(c=scalar)))
    given = {"a": "1", "b": [{"c": 1, "d": "x"}], "e": "x"}
    assert rebuild(rule, given) == ({"a": "1", "b": [{"c": 1}]}, {"d", "e"})


def test_a_duplicate_key_cannot_hide_a_value():
    kept = fields(a=fields(b=text))(
        Raw(b'{"a":{"b":{"url":"http://x"},"b":"1"},"a":{"b":{"url":"y"},"b":"2"}}'), "x", set()
    )
    assert bytes(kept) == b'{"a":{"b":"2"}}'


@pytest.mark.parametrize("name", ["$ref", "$dynamicRef", r"\u0024ref", r"$\u0072ef"])
@pytest.mark.parametrize("place", ["http://10.0.0.1/a", "file:///etc/passwd", "other.json", "//a", ""])
def test_a_schema_may_refer_only_to_itself(name, place):
    nested = f'{{"a": [{{"{name}": {json.dumps(place)}}}]}}'
    for body in (nested, json.dumps(nested)):
        with pytest.raises(MalformedRequest) as caught:
            rebuild(schema, body.encode())
        assert (caught.value.param, caught.value.code) == ("x", "unsupported_reference")
    inner = nested.replace(json.dumps(place), '"#/$defs/a"').encode()
    assert rebuild(schema, inner)[0] == json.loads(inner)


@pytest.mark.parametrize("text", ['\ufeff{"$ref":"http://x"}', '{"a":"\t","$ref":"http://x"}', '{"$ref":"http://x",}'])
def test_a_schema_as_text_that_only_lenient_parsers_read_may_refer_only_to_itself(text):
    with pytest.raises(MalformedRequest, match="refers to another document"):
        schema(Raw(json.dumps(text).encode()), "x", set())


def test_values_that_only_look_like_references_are_accepted():
    given = {"properties": {"$ref": {"type": "string"}}, "description": 'Not {"$ref": "x"}.', "$schema": "https://a/b"}
    assert rebuild(schema, given) == (given, set())


@pytest.mark.parametrize("given", ["data:image/png;base64,AA==", {"url": "DATA:image/png;base64,AA==", "id": "u"}])
def test_a_data_url_is_rebuilt(given):
    assert rebuild(address, given)[0] == {"url": "data:image/png;base64,AA=="}


def test_the_detail_of_an_image_is_kept():
    given = {"url": "data:image/png;base64,AA==", "detail": "low"}
    assert rebuild(address, given)[0] == given


@pytest.mark.parametrize("given", [{}, None, 5, [], {"url": None}, {"url": ["data:image/png;base64,AA=="]}, "a.png"])
def test_media_without_bytes_are_refused(given):
    with pytest.raises(MalformedRequest) as caught:
        rebuild(address, given)
    assert (caught.value.param, caught.value.code) == ("x", "unsupported_x")
    with pytest.raises(MalformedRequest):
        rebuild(allowlist_rules.base64_text, given)


@pytest.mark.parametrize(
    "value",
    [
        *("http://a", " HTTPS://a", "file:a", "s3://b/c", "gopher:/\\a", "//host/a", "\\\\host\\a", "data:,a"),
        *("/etc/passwd", "~/a/b", "../a", "c:\\a", {"a": [{"b": "ftp://x"}]}, {"http://a": 1}),
    ],
)
def test_urls_and_paths_are_recognised(value):
    assert has_address(value)


@pytest.mark.parametrize(
    "value", ["high", "See http://a", "12:30", "a/b", "/think", "", 5, None, {"a": ["b"]}, "note: x"]
)
def test_other_strings_are_not_urls(value):
    assert not has_address(value)
