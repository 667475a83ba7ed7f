"""How hard a model thinks, in each host's way (contract B.16)."""

import json

import pytest
from msgspec import Raw

from proxy.dialects import effort


def test_effort_is_taken_out():
    fields = {"reasoning_effort": Raw(b'"high"'), "model": Raw(b'"m"')}
    assert effort.take_effort(fields) == "high"
    assert set(fields) == {"model"}
    assert effort.take_effort(fields) is None


@pytest.mark.parametrize(
    ("raw", "is_on"),
    [
        (b'{"type":"enabled"}', True),
        (b'{"type": "disabled"}', False),
        (b'{"type":"adaptive"}', None),
        (b"{}", None),
        (b"true", None),
        (b'"enabled"', None),
    ],
)
def test_thinking_is_taken_out(raw, is_on):
    fields = {"thinking": Raw(raw)}
    assert effort.take_thinking(fields) is is_on
    assert fields == {}


@pytest.mark.parametrize(("wanted", "sent"), [("medium", b'"high"'), ("odd", b'"odd"'), (None, None)])
def test_effort_is_put_under_the_hosts_name(wanted, sent):
    """An unknown one goes as it is, for the host to judge."""
    fields = {}
    effort.put_effort(fields, wanted, {"medium": "high"})
    assert {name: bytes(value) for name, value in fields.items()} == ({"reasoning_effort": sent} if sent else {})


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (None, {"thinking": False, "enable_thinking": False}),
        (b'{"enable_thinking":true,"x":1}', {"thinking": False, "enable_thinking": True, "x": 1}),
    ],
)
def test_a_switch_of_the_caller_stays(raw, expected):
    fields = {} if raw is None else {"chat_template_kwargs": Raw(raw)}
    effort.put_template_switch(fields, is_on=False, names=("thinking", "enable_thinking"))
    assert json.loads(bytes(fields["chat_template_kwargs"])) == expected


def test_switches_that_are_no_object_are_left_for_the_host_to_refuse():
    fields = {"chat_template_kwargs": Raw(b'"x"')}
    effort.put_template_switch(fields, is_on=True, names=("thinking",))
    assert bytes(fields["chat_template_kwargs"]) == b'"x"'
