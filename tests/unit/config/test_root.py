"""The checks that need more than one section, and the names that are allowed."""

import pytest

from tests.fakes.configs import refusal
from tidegate.config.load import parse
from tidegate.config.root import did_you_mean, is_loopback, unnamed_engines

HOST = "{base_url: https://api.example/v1}"
TWO = "engines: {tiny: {kind: llamacpp, model: x}, large: {kind: llamacpp, model: y}}\n"
SINGLE = "a group has at least two engines; add another, or take the group out"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "server: {workers: 2}",
            (
                "f: server.workers: 2 workers would need state that they share, which this version does not have; "
                "set 1, and run more replicas behind a balancer"
            ),
        ),
        (
            f"upstreams: {{a: {HOST}}}\nengines: {{a: {{kind: llamacpp, model: x}}}}",
            "f: engines.a: an upstream has this name too; rename one of them",
        ),
        (
            "models: {m: {targets: [{}]}}",
            "f: models.m.targets[0]: set one of them: either upstream or engine",
        ),
        (
            "models: {m: {targets: [{upstream: a, engine: b, model: x}]}}",
            "f: models.m.targets[0]: set one of them: either upstream or engine",
        ),
        (
            "models: {m: {targets: [{upstream: a, model: x}]}}",
            "f: models.m.targets[0].upstream: no upstream is called a; there is none here",
        ),
        (
            f"upstreams: {{deepseek: {HOST}}}\nmodels: {{m: {{targets: [{{upstream: depseek, model: x}}]}}}}",
            "f: models.m.targets[0].upstream: no upstream is called depseek; did you mean deepseek?",
        ),
        (
            f"upstreams: {{a: {HOST}}}\nmodels: {{m: {{targets: [{{upstream: a}}]}}}}",
            "f: models.m.targets[0].model: missing; say what the model is called at a",
        ),
        (
            "engines: {tiny: {kind: llamacpp, model: x}}\nmodels: {m: {targets: [{engine: tiny}, {engine: big}]}}",
            "f: models.m.targets[1].engine: no engine is called big; known here: tiny",
        ),
        (
            f"upstreams: {{a: {HOST}}}\nmodels: {{m: {{reach: local_only, targets: [{{upstream: a, model: x}}]}}}}",
            "f: models.m.reach: local_only, but no target is an engine, so no target could be used; add one",
        ),
        (
            f"{TWO}swap: {{exclusive: [[tiny, larg]]}}",
            "f: swap.exclusive[0]: no engine is called larg; did you mean large?",
        ),
        (f"{TWO}swap: {{exclusive: [[tiny, large], [tiny]]}}", f"f: swap.exclusive[1]: {SINGLE}"),
        (f"{TWO}swap: {{exclusive: [[]]}}", f"f: swap.exclusive[0]: {SINGLE}"),
        (
            f"{TWO}swap: {{exclusive: [[tiny, large, tiny]]}}",
            "f: swap.exclusive[0]: tiny is named twice; take one out",
        ),
        (
            f"{TWO.replace('}', ', pinned: true}', 2)}swap: {{exclusive: [[tiny, large]]}}",
            ("f: swap.exclusive[0]: tiny and large are pinned, so neither makes room for the other; unpin one of them"),
        ),
        (
            (
                "engines: {a: {kind: llamacpp, model: x}, b: {kind: external, base_url: http://h/v1}}\n"
                "swap: {exclusive: [[a, b]]}"
            ),
            "f: swap.exclusive[0]: b is not started by Tidegate, so it cannot make room; take it out",
        ),
        (
            'engines: {a: {kind: llamacpp, model: x, hooks: {after_load: "echo \'a"}}}',
            "f: engines.a.hooks.after_load: a quotation mark is not closed; close it, or write a list of words",
        ),
        (
            "engines: {a: {kind: vllm, model: x}}\nmodels: {m: {policy: weighted, targets: [{engine: a, weight: 0}]}}",
            "f: models.m.targets: every weight is 0; give one target a weight above 0",
        ),
        (
            (
                "engines: {a: {kind: llamacpp, model: x}}\nmodels: {m: {policy: balanced, targets: [{engine: a}], "
                "balance: {latency: 0, cost: 0, quality: 0, failures: 0}}}"
            ),
            "f: models.m.balance: every weight is 0; give one signal a weight above 0",
        ),
        *(
            (
                f'upstreams: {{a: {{base_url: "{url}"}}}}',
                "f: upstreams.a.base_url: not a valid URL; write it as https://HOST/v1 or http://HOST:PORT/v1",
            )
            for url in ("http://x:99999", "http://[::1", "http://x:abc/v1", "http://a..b/v1", "http://x:0/v1")
        ),
        (
            "engines: {a: {kind: external, base_url: 'http://x:abc/v1'}}",
            "f: engines.a.base_url: not a valid URL; write it as https://HOST/v1 or http://HOST:PORT/v1",
        ),
        (
            "routing: {retry: {backoff_s: 9}}",
            "f: routing.retry.backoff_s: 9 is over max_backoff_s (8); lower it",
        ),
        (
            "routing: {health: {max_ejection_s: 1}}",
            "f: routing.health.ejection_s: 5 is over max_ejection_s (1); lower it",
        ),
        (
            "engines: {r1: {kind: vllm, model: x, sleep_level: 2, adapters: {sql: y}}}",
            (
                "f: engines.r1.sleep_level: 2 would drop the adapters' weights, which vLLM does not read again; set 1, "
                "or leave it out, so that the engine stops to make room"
            ),
        ),
    ],
)
def test_sections_that_do_not_fit_are_refused_with_the_cure(text, message):
    assert refusal(text, "f") == message


@pytest.mark.parametrize("name", ["'a/b'", "''", "' '", "-a", "'a b'", "é", "a" * 65, '"a\\n"'])
@pytest.mark.parametrize("section", ["upstreams", "engines"])
def test_a_name_that_cannot_be_used_before_a_slash_is_refused(section, name):
    """Callers name a target as `upstream/model`; names are labels of metrics too."""
    entry = HOST if section == "upstreams" else "{kind: llamacpp, model: x}"
    message = refusal(f"{section}: {{{name}: {entry}}}", "f")
    assert message.startswith(f"f: {section}.")
    assert "not a usable name; take letters, digits, dot, dash, underscore" in message


@pytest.mark.parametrize("name", ["a", "vllm-1", "Local_2.b", "9"])
def test_plain_names_are_accepted(name):
    assert list(parse(f"upstreams: {{'{name}': {HOST}}}", "f").upstreams) == [name]


@pytest.mark.parametrize("name", ["gpt-4o", "deepseek-ai/DeepSeek V3:free", "é"])
def test_a_model_may_be_called_anything(name):
    text = f"engines: {{tiny: {{kind: llamacpp, model: x}}}}\nmodels: {{'{name}': {{targets: [{{engine: tiny}}]}}}}"
    assert list(parse(text, "f").models) == [name]


def test_an_engine_that_no_model_names_is_a_model_by_its_own_name():
    """One line of config is enough to use such an engine; an external engine lists its models itself."""
    engines = "{one: {kind: llamacpp, model: x}, two: {kind: vllm, model: y}, three: {kind: llamacpp, model: z}, \
        other: {kind: external, base_url: http://h/v1}}"
    models = "{m: {targets: [{engine: one}]}, three: {targets: [{engine: two, model: sql}]}}"
    assert unnamed_engines(parse(f"engines: {engines}", "f")) == ["one", "two", "three"]
    assert unnamed_engines(parse(f"engines: {engines}\nmodels: {models}", "f")) == []


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("localhost.example.org", False),
    ],
)
def test_loopback_is_an_address_that_only_this_machine_can_reach(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("name", "known", "cure"),
    [
        ("prot", ["host", "port"], "did you mean port?"),
        ("zzz", ["b", "a"], "known here: a, b"),
        ("zzz", [], "there is none here"),
    ],
)
def test_a_misspelt_name_has_a_cure(name, known, cure):
    assert did_you_mean(name, known) == cure
