"""The translator that all dialects share (contract B.0)."""

import json

import pytest

from proxy.dialects.base import Dialect
from proxy.errors import UnsupportedParameter, UpstreamLacksModel
from proxy.protocol import chat, completions, embeddings

PLAIN = Dialect(name="plain")
TOOL = {"type": "function", "function": {"name": "f"}}
USER = {"role": "user", "content": "hi"}


def build(dialect=PLAIN, *, is_stream=False, **fields):
    """The body that goes upstream, less what every one has."""
    request = chat.parse_request(json.dumps({"model": "public", "messages": [USER]} | fields).encode())
    body = json.loads(dialect.build_request(request, model="theirs", is_stream=is_stream).body)
    assert body.pop("model") == "theirs"
    assert body.pop("messages") == fields.get("messages", [USER])
    return body


def test_the_model_has_the_hosts_name_for_it():
    assert build() == {}


def test_every_other_field_goes_as_it_is():
    fields = {"temperature": 0.5, "seed": 7, "response_format": {"type": "json_object"}, "vendor": {"a": [None, "é"]}}
    assert build(**fields) == fields


def test_nulls_are_left_out():
    """The Python SDK sends explicit ones; some hosts answer 400 (Q-NULL)."""
    assert build(temperature=None, stop=None, tools=None, tool_choice=None, vendor=None) == {}


def test_a_key_that_stands_twice_goes_once():
    """No duplicate slips by the checks that read the other one."""
    twice = b'"messages":[{"role":"user","content":"a"}],"messages":[{"role":"user","role":"user","content":"b"}]'
    body = b'{"model":"a",%b,"n":1,"n":2}' % twice
    built = PLAIN.build_request(chat.parse_request(body), model="m", is_stream=False).body
    assert built.count(b'"n"') == 1
    assert built.count(b'"messages"') == 1
    assert built.count(b'"role"') == 1
    assert json.loads(built)["n"] == 2


@pytest.mark.parametrize(
    "name",
    [
        "bootstrap_room",
        "request_id",
        "priority",
        "kv_transfer_params",
        "ec_transfer_params",
        "vllm_xargs",
        "cache_salt",
        "id_slot",
        "custom_logit_processor",
        "data_parallel_rank",
        "disagg_prefill_dp_rank",
        "extra_key",
        "lora_path",
        "rid",
        "routed_dp_rank",
        "session_params",
    ],
)
def test_internal_fields_of_engines_are_stripped(name):
    """A caller's would cross into other requests (contract 76o)."""
    assert build(**{name: 1}) == {}


@pytest.mark.parametrize(
    ("fields", "is_stream", "sent"),
    [
        ({}, False, {}),
        ({"stream": False}, False, {}),
        ({"stream": True}, True, {"stream": True, "stream_options": {"include_usage": True}}),
        (
            {"stream": True, "stream_options": {"include_usage": False, "include_obfuscation": True}},
            True,
            {"stream": True, "stream_options": {"include_usage": True}},
        ),
        # an engine may be asked for a stream although the caller was not
        ({}, True, {"stream": True, "stream_options": {"include_usage": True}}),
    ],
)
def test_usage_is_always_asked_for(fields, is_stream, sent):
    """For our own books (Q-SOPT)."""
    assert build(is_stream=is_stream, **fields) == sent


def test_a_host_without_stream_options_is_not_asked():
    assert build(Dialect(name="x", asks_usage=False), is_stream=True, stream=True) == {"stream": True}


@pytest.mark.parametrize(
    ("name", "fields", "sent"),
    [
        ("max_tokens", {"max_completion_tokens": 5}, {"max_tokens": 5}),
        ("max_tokens", {"max_tokens": 5}, {"max_tokens": 5}),
        ("max_tokens", {"max_tokens": 9, "max_completion_tokens": 5}, {"max_tokens": 5}),
        ("max_tokens", {"max_tokens": 9, "max_completion_tokens": None}, {"max_tokens": 9}),
        ("max_completion_tokens", {"max_tokens": 9}, {"max_completion_tokens": 9}),
        ("max_tokens", {}, {}),
        (None, {"max_tokens": 9, "max_completion_tokens": 5}, {"max_completion_tokens": 5}),
        (None, {"max_tokens": 9}, {"max_tokens": 9}),
    ],
)
def test_the_limit_has_the_name_that_the_host_honours(name, fields, sent):
    """The newer one of the caller's wins (Q-MAX)."""
    assert build(Dialect(name="x", max_tokens=name), **fields) == sent


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"tools": []}, {}),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
        ({"tool_choice": "none"}, {}),
        ({"tools": [TOOL], "tool_choice": "auto"}, {"tools": [TOOL], "tool_choice": "auto"}),
        ({"tools": [TOOL], "parallel_tool_calls": False}, {"tools": [TOOL], "parallel_tool_calls": False}),
        ({"stop": []}, {}),
        ({"stop": ""}, {}),
        ({"stop": "END"}, {"stop": ["END"]}),
        ({"stop": ["a", ""]}, {"stop": ["a"]}),
    ],
)
def test_what_is_empty_is_absent(fields, sent):
    """Hosts answer 400 to `tools: []` and to `stop: ""` (Q-TOOLS, Q-STOP, 76d)."""
    assert build(**fields) == sent


def test_empty_lists_are_seen_through_white_space():
    body = b'{"model":"m","messages":[{"role":"user","content":"a"}],"tools":[ \n ],"stop":[\t]}'
    assert set(json.loads(PLAIN.build_request(chat.parse_request(body), model="m", is_stream=False).body)) == {
        "model",
        "messages",
    }


def test_hints_that_a_host_rejects_are_dropped():
    dialect = Dialect(name="x", lacks=frozenset({"user", "seed"}))
    assert build(dialect, user="u", seed=1, top_p=0.5) == {"top_p": 0.5}


@pytest.mark.parametrize("value", [{"1": 5}, True, 3, "x", [1]])
def test_what_changes_the_result_and_cannot_be_honoured_is_refused(value):
    """Rather than answered with something else (Q-DROP)."""
    dialect = Dialect(name="x", lacks=frozenset({"special"}))
    with pytest.raises(UnsupportedParameter, match="'special' is not supported with this model") as caught:
        build(dialect, special=value)
    assert (caught.value.param, caught.value.code, caught.value.status) == ("special", "unsupported_parameter", 400)


@pytest.mark.parametrize("value", [None, False, {}, []])
def test_what_asks_for_nothing_is_not_refused(value):
    """`logit_bias: {}` and `false` are hints, and dropped in silence (Q-DROP)."""
    assert build(Dialect(name="x", lacks=frozenset({"special"})), special=value) == {}


def test_a_legacy_completion_goes_without_chat_rules():
    request = completions.parse_request(b'{"model":"a","prompt":["x"],"max_tokens":5,"stop":"","stream":true}')
    built = json.loads(
        Dialect(name="x", max_tokens="max_completion_tokens").build_request(request, model="m", is_stream=True).body
    )
    assert built["prompt"] == ["x"]
    assert built["max_tokens"] == 5
    assert built["stream"] is True


def test_an_embedding_is_never_a_stream():
    request = embeddings.parse_request(b'{"model":"a","input":"x","encoding_format":"base64"}')
    assert json.loads(PLAIN.build_request(request, model="m", is_stream=True).body) == {
        "model": "m",
        "input": "x",
        "encoding_format": "base64",
    }


def test_endpoints_have_their_paths():
    assert [PLAIN.path(endpoint, "m") for endpoint in ("chat", "completions", "embeddings")] == [
        "/chat/completions",
        "/completions",
        "/embeddings",
    ]


def test_an_endpoint_that_a_host_does_not_have_may_be_had_elsewhere():
    with pytest.raises(UpstreamLacksModel, match="does not serve embeddings") as caught:
        Dialect(name="x", paths={"chat": "/chat"}).path("embeddings", "m")
    assert caught.value.may_try_another_target
