"""Model cards: which one is found for a name, and that Tidegate's own cards have a date and a source, and are found."""

import datetime as dt
import re
from decimal import Decimal

import pytest

from tidegate.config.cards import UNKNOWN, Card, Cards, known_cards

KNOWN = known_cards()
CARDS = Cards({}, KNOWN)
NAMES = {id(card): name for name, card in KNOWN.items()}

FOUND = {
    # api.deepseek.com
    "deepseek-flash": "deepseek-flash",
    "deepseek-v4-flash": "deepseek-v4-flash",
    "deepseek-v4-flash-vision-exp": "deepseek-flash",
    "deepseek-v4-pro": "deepseek-v4-pro",
    # DeepSeek's checkpoints, as engines and resellers call them
    "deepseek-ai/DeepSeek-V4.1-Flash": "deepseek-v4.1",
    "deepseek/deepseek-v4.1-flash": "deepseek-v4.1",
    "deepseek-v4-1-flash": "deepseek-v4.1",
    "deepseek-ai/DeepSeek-V4-Flash": "deepseek-v4",
    "deepseek-ai/DeepSeek-V4-Pro": "deepseek-v4",
    "deepseek/deepseek-v4-flash:free": "deepseek-v4",
    "deepseek-v4-flash-0423": "deepseek-v4",
    "deepseek-ai/DeepSeek-V3.2": "deepseek-v3.2",
    "deepseek/deepseek-v3.2": "deepseek-v3.2",
    "deepseek-ai/DeepSeek-V3.2-Exp": "deepseek-v3.1",
    "deepseek-ai/DeepSeek-V3.2-Speciale": "deepseek-v3.2-speciale",
    "deepseek/deepseek-v3.2-thinking": "deepseek-v3.2-thinking",
    "deepseek-ai/DeepSeek-V3.1": "deepseek-v3.1",
    "deepseek-ai/DeepSeek-V3.1-Terminus": "deepseek-v3.1",
    "accounts/fireworks/models/deepseek-v3p1": "deepseek-v3.1",
    "deepseek/deepseek-chat-v3.1": "deepseek-v3.1",
    "deepseek-v3.1:671b-cloud": "deepseek-v3.1",
    "unsloth/DeepSeek-V3.1-GGUF": "deepseek-v3.1",
    "deepseek-ai/DeepSeek-V3": "deepseek-v3",
    "deepseek-ai/DeepSeek-V3-0324": "deepseek-v3",
    "deepseek/deepseek-chat-v3-0324:free": "deepseek-v3",
    "deepseek-v3:671b": "deepseek-v3",
    "deepseek-ai/DeepSeek-V2.5": "deepseek-v2",
    "deepseek-ai/DeepSeek-V2-Lite-Chat": "deepseek-v2",
    "deepseek-ai/DeepSeek-R1": "deepseek-r1",
    "nvidia/DeepSeek-R1-FP4": "deepseek-r1",
    "deepseek/deepseek-r1:free": "deepseek-r1",
    "accounts/fireworks/models/deepseek-r1": "deepseek-r1",
    "deepseek-ai/DeepSeek-R1-0528": "deepseek-r1-0528",
    "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B": "deepseek-r1-0528",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": "deepseek-r1-distill",
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B": "deepseek-r1-distill",
    "deepseek-r1-distill-llama-70b": "deepseek-r1-distill",
    "deepseek-r1:8b": "deepseek-r1-ollama",
    "deepseek-r1:671b": "deepseek-r1-ollama",
    "deepseek-chat": "deepseek-chat",
    "deepseek/deepseek-chat": "deepseek-chat",
    "deepseek-reasoner": "deepseek-reasoner",
    # OpenAI
    "gpt-4o": "gpt-4o",
    "gpt-4o-2024-08-06": "gpt-4o",
    "openai/gpt-4o-mini": "gpt-4o-mini",
    "gpt-4o-audio-preview": None,
    "gpt-4.1-2025-04-14": "gpt-4.1",
    "gpt-4.1-nano": "gpt-4.1-mini",
    "o1": "o3",
    "o3": "o3",
    "o3-mini": "o3-mini",
    "o4-mini-2025-04-16": "o4-mini",
    "openai/o3": "openai-router-o",
    "gpt-5": "gpt-5",
    "gpt-5-2025-08-07": "gpt-5",
    "gpt-5-mini": "gpt-5-mini",
    "gpt-5-nano": "gpt-5-nano",
    "gpt-5-chat-latest": "gpt-5-chat",
    "openai/gpt-5": "openai-router-gpt-5",
    "gpt-5.1": "gpt-5.1",
    "gpt-5.1-chat-latest": None,
    "openai/gpt-5.1": "openai-router-gpt-5.1",
    "gpt-5.2": "gpt-5.2",
    "gpt-5.4": "gpt-5.4",
    "gpt-5.4-mini": "gpt-5.4-mini",
    "gpt-5.4-nano": "gpt-5.4-nano",
    "openai/gpt-5.4": "openai-router-gpt-5.4",
    "openai/gpt-5.4-mini": "openai-router-gpt-5.4-mini",
    "gpt-5.5": "gpt-5.5",
    "openai/gpt-5.5": "openai-router-gpt-5.5",
    "gpt-5.6": "gpt-5.6",
    "gpt-5.6-terra": "gpt-5.6-terra",
    "gpt-5.6-luna": "gpt-5.6-luna",
    "openai/gpt-5.6-sol": "openai-router-gpt-5.6",
    "gpt-6-sol": "gpt-6-sol",
    "gpt-6-luna": "gpt-6-luna",
    "gpt-6-astra": "gpt-6-astra",
    "gpt-6.1-sol": "gpt-6.1-sol",
    "openai/gpt-oss-120b": "gpt-oss",
    "gpt-oss:20b": "gpt-oss",
    "openai.gpt-oss-120b-1:0": "gpt-oss",
    # Llama and Qwen
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": "llama-4-scout",
    "Llama-4-Maverick-17B-128E-Instruct-FP8": "llama-4-maverick",
    "accounts/fireworks/models/llama4-maverick-instruct-basic": "llama-4-maverick",
    "meta-llama/Llama-3.3-70B-Instruct-Turbo": "llama-3.3",
    "llama-3.3-70b-versatile": "llama-3.3",
    "llama3.3:70b": "llama-3.3",
    "accounts/fireworks/models/llama-v3p3-70b-instruct": "llama-3.3",
    "nvidia/Llama-3.3-Nemotron-Super-49B-v1": None,
    "meta-llama/Llama-3.2-11B-Vision-Instruct": "llama-3.2-vision",
    "meta-llama/Llama-3.2-3B-Instruct": None,
    "llama-3.1-8b-instant": "llama-3.1",
    "meta-llama/Meta-Llama-3.1-405B-Instruct": "llama-3.1",
    "Qwen/Qwen3-8B": "qwen3",
    "qwen/qwen3-235b-a22b-thinking-2507": "qwen3-thinking-2507",
    "Qwen/Qwen3-30B-A3B-Instruct-2507": "qwen3-instruct-2507",
    "Qwen/Qwen3-Embedding-8B": None,
    "qwen3:30b-a3b": None,
    "smollm2-135m": None,
}


@pytest.mark.parametrize(("name", "card"), FOUND.items())
def test_a_name_gets_the_card_of_its_model(name, card):
    """With any prefix of a host; no earlier card in the file has a pattern so wide that it matches the name too."""
    found = CARDS.find(name)
    assert (None if found is UNKNOWN else NAMES[id(found)]) == card


def test_every_card_is_found_by_some_name():
    assert {name for name in FOUND.values() if name} == set(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_every_card_has_a_date_and_a_source(name):
    card = KNOWN[name]
    assert dt.date(2024, 1, 1) < card.as_of <= dt.date(2026, 11, 25)
    assert re.search("https://|contract row", card.source)
    assert card.matches
    assert all(pattern == pattern.lower() for pattern in card.matches)


@pytest.mark.parametrize("name", KNOWN)
def test_the_facts_of_a_card_do_not_contradict_each_other(name):
    card = KNOWN[name]
    if card.context_window is not None:
        assert (card.max_output_tokens or 1) <= card.context_window
    if card.price is not None and card.price.cached_input_usd_per_mtok is not None:
        assert Decimal(0) < card.price.cached_input_usd_per_mtok <= card.price.input_usd_per_mtok
    if card.thinking == "never":
        assert card.reasoning_history is None
        assert card.reasoning_tags is None
        assert card.refused_while_thinking == ()


def test_the_operators_cards_take_precedence():
    own, known = Card(matches=("llama*",)), Card(matches=("*",))
    cards = Cards({"own": own}, {"known": known})
    assert cards.find("llama-9") is own
    assert cards.find("other") is known
    assert cards.named("known") is known


def test_a_card_of_the_operator_replaces_the_known_card_of_the_same_name():
    own = Card(context_window=1)
    assert Cards({"gpt-5": own}, KNOWN).named("gpt-5") is own


def test_the_first_matching_pattern_counts():
    first, second = Card(matches=("a-b*",)), Card(matches=("a-*",))
    cards = Cards({}, {"first": first, "second": second})
    assert [cards.find(name) for name in ("a-bc", "a-c", "x/A-B", "b")] == [first, second, first, UNKNOWN]


def test_the_number_of_cached_names_is_limited():
    """Names come from callers."""
    cards = Cards({}, {"known": Card(matches=("a*",))})
    for number in range(5000):
        cards.find(f"a{number}")
    assert len(cards._found) <= 4096
