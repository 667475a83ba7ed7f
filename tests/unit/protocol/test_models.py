"""`/v1/models`: the model cards for callers, and the lists that hosts return (contract A.7)."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.protocol.models import ModelCard, best_status, list_to_json, parse_list

DATA = Path(__file__).parents[2] / "data" / "recorded"


def test_a_card_has_openais_four_fields():
    card = ModelCard(id="a/b", owned_by="host", created=7)
    assert json.loads(card.to_json()) == {"id": "a/b", "object": "model", "created": 7, "owned_by": "host"}


def test_the_card_of_a_model_with_an_engine_has_its_status():
    card = ModelCard(id="a", owned_by="host", created=7, status="loading")
    assert json.loads(card.to_json())["status"] == "loading"


@pytest.mark.parametrize(
    ("statuses", "best"),
    [
        (["failed"], "failed"),
        (["failed", "unloaded"], "unloaded"),
        (["unloaded", "sleeping", "failed"], "sleeping"),
        (["sleeping", "loading"], "loading"),
        (["loading", "loaded", "sleeping"], "loaded"),
    ],
)
def test_the_best_engine_of_a_model_counts(statuses, best):
    assert best_status(statuses) == best


def test_a_list_holds_cards():
    cards = [ModelCard(id="a", owned_by="x", created=1), ModelCard(id="b", owned_by="y", created=2)]
    listed = json.loads(list_to_json(cards))
    assert listed["object"] == "list"
    assert [card["id"] for card in listed["data"]] == ["a", "b"]
    assert json.loads(list_to_json([])) == {"object": "list", "data": []}


def test_only_fields_that_client_tools_read_are_kept():
    body = b'{"data":[{"id":"a","created":5,"max_model_len":2048,"permission":[],"root":"/srv/a","owned_by":"them"}]}'
    [card] = parse_list(body, owned_by="host")
    assert json.loads(card.to_json()) == {
        "id": "a",
        "object": "model",
        "created": 5,
        "owned_by": "host",
        "max_model_len": 2048,
    }


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        (b'{"data":[]}', []),
        (b'{"object":"list","data":[{"id":"a"},{"id":"b"}]}', ["a", "b"]),
        (b'[{"id":"a"}]', ["a"]),
        (b'{"data":[{"name":"x"},{"id":5},{"id":null},{"id":"a"}]}', ["a"]),
    ],
)
def test_lists_of_all_hosts_are_read(body, ids):
    """Entries without an id are left out; some hosts return a bare list."""
    assert [card.id for card in parse_list(body, owned_by="h")] == ids


@pytest.mark.parametrize("created", [b"null", b'"soon"', b"1.5", b"[]", b"{}"])
def test_a_model_is_kept_whatever_its_created_is(created):
    """Only entries without an id are left out."""
    cards = parse_list(b'{"data":[{"id":"a","created":%b}]}' % created, owned_by="h")
    assert [card.id for card in cards] == ["a"]
    assert isinstance(cards[0].created, int)


@pytest.mark.parametrize("body", [b"", b"<html>", b"5", b"{}", b'{"data":{}}', b'{"data":[1]}', b'{"detail":"no"}'])
def test_a_body_that_is_not_a_list_is_an_error(body):
    with pytest.raises(msgspec.DecodeError):
        parse_list(body, owned_by="h")


@given(st.binary())
@example(b'{"data":[{"\xff":1}]}')
@example(b'{"data":[{"id":"\xff"}]}')
@example(b'{"data":[{"id":"a","created":"\xff"}]}')
def test_any_bytes_are_a_list_or_an_error(body):
    """Only decode errors are raised (for invalid UTF-8 msgspec raises `UnicodeDecodeError`, contract E.5)."""
    try:
        parse_list(body, owned_by="h")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return


@pytest.mark.parametrize(("name", "extras"), [("vllm/models.json", {"max_model_len"}), ("llamacpp/models.json", set())])
def test_recorded_lists_are_read(name, extras):
    [card] = parse_list((DATA / name).read_bytes(), owned_by="host")
    assert card.id == "smollm2"
    assert card.created > 1_700_000_000
    assert set(card.extras) == extras
