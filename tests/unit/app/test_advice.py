"""The notes on settings that have no effect, or perhaps an unintended one."""

import pytest

from tidegate.app.advice import advise, is_private
from tidegate.config.load import load, parse

UPSTREAMS_AND_ENGINES = """
upstreams:
  far: {base_url: "https://far.example/v1"}
  deepseek: {dialect: deepseek, base_url: "https://api.deepseek.com"}
  open: {dialect: openai, base_url: "https://api.openai.com/v1"}
engines: {tiny: {kind: llamacpp, model: x}}
cards: {known: {price: {input_usd_per_mtok: "1", output_usd_per_mtok: "2"}}}
"""
FAR = "{upstream: far, model: a, card: known}"
OTHER = "{upstream: far, model: b}"
NEAR = "{engine: tiny}"


def advice(text: str) -> list[str]:
    return list(advise(parse(text, "f")))


def on_model(fields: str, *targets: str) -> list[str]:
    return advice(f"{UPSTREAMS_AND_ENGINES}models: {{m: {{{fields}, targets: [{', '.join(targets)}]}}}}")


@pytest.mark.parametrize(
    ("fields", "targets", "note"),
    [
        (
            "overflow_ttft_s: 2",
            [NEAR, FAR],
            (
                ".overflow_ttft_s: does nothing with policy ordered, except for requests with reach local_first; "
                "set policy: local_first"
            ),
        ),
        (
            "overflow_ttft_s: 2, policy: local_first",
            [FAR, OTHER],
            ".overflow_ttft_s: does nothing without both an engine and an upstream among the targets",
        ),
        ("balance: {cost: 3}", [NEAR, FAR], ".balance: does nothing with policy ordered; set policy: balanced"),
        ("hedge: true", [FAR], ".hedge: does nothing with one target; add another"),
        (
            "on_stream_failure: continue",
            [FAR],
            ".on_stream_failure: continue does nothing with one target; add another",
        ),
        (
            "on_stream_failure: continue",
            ["{upstream: open, model: a}", "{upstream: open, model: b}"],
            ".on_stream_failure: continue does nothing for chat, as no target can continue a partial answer",
        ),
        (
            "max_price_usd: 1",
            [NEAR, FAR, OTHER],
            (
                ".max_price_usd: the price of targets[2] (far/b) is not known, so the limit is not applied to it; give "
                "it a card that has a price"
            ),
        ),
    ],
)
def test_a_setting_of_a_model_without_effect_is_noted_with_the_fix(fields, targets, note):
    assert on_model(fields, *targets) == [f"models.m{note}"]


@pytest.mark.parametrize(
    ("fields", "targets"),
    [
        ("overflow_ttft_s: 2, policy: local_first", [NEAR, FAR]),
        ("overflow_ttft_s: 2, reach: local_first", [NEAR, FAR]),
        ("balance: {cost: 3}, policy: balanced", [NEAR, FAR]),
        ("hedge: true", [NEAR, FAR]),
        ("on_stream_failure: continue", [FAR, "{upstream: deepseek, model: deepseek-v4-pro}"]),
        ("max_price_usd: 1", [NEAR, FAR]),
    ],
)
def test_a_setting_that_has_an_effect_is_not_noted(fields, targets):
    assert on_model(fields, *targets) == []


def test_a_model_without_an_engine_is_noted_when_routing_is_local_only():
    [line] = advice(f"{UPSTREAMS_AND_ENGINES}routing: {{reach: local_only}}\nmodels: {{m: {{targets: [{FAR}]}}}}")
    assert (
        line
        == "models.m.targets: no engine is among them, and routing.reach is local_only: no target can take a request"
    )


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://127.0.0.1:8001/v1", True),
        ("http://[::1]:8001/v1", True),
        ("http://10.2.3.4/v1", True),
        ("http://gpu-7:8000/v1", True),
        ("http://vllm.models.svc.cluster.local/v1", True),
        ("https://api.example.com/v1", False),
        ("http://8.8.8.8/v1", False),
        ("https://[2001:4860:4860::8888]/v1", False),
    ],
)
def test_an_external_engine_at_a_public_address_is_noted(url, private):
    """An engine counts as local: requests with reach local_only are sent to it."""
    notes = advice(f'engines: {{theirs: {{kind: external, base_url: "{url}"}}}}')
    assert (notes == []) == private == is_private(url)
    assert all("local_only" in line for line in notes)


@pytest.mark.parametrize(
    ("cmd", "note"),
    [
        ("serve --host 0.0.0.0 --port ${PORT}", "other machines can reach the server without Tidegate"),
        ("serve --listen=[::] --port ${PORT}", "other machines can reach the server without Tidegate"),
        ("docker run -p ${PORT}:8000 image --host 0.0.0.0", "write 127.0.0.1:${PORT}:"),
        ("/usr/bin/docker run -p 127.0.0.1:${PORT}:8000 image --host 0.0.0.0", None),
        ("serve --host 127.0.0.1 --port ${PORT}", None),
        ("docker run -d --name x -p 127.0.0.1:${PORT}:8000 image", "with -d the command ends at once"),
        ("podman run --rm -itd -p 127.0.0.1:${PORT}:8000 image", "with -d the command ends at once"),
        ("docker run --detach=true -p 127.0.0.1:${PORT}:8000 image", "with -d the command ends at once"),
        ("docker run --rm -p 127.0.0.1:${PORT}:8000 image -d", None),
    ],
)
def test_a_command_that_may_not_do_what_was_intended_is_noted(cmd, note):
    lines = advice(f"engines: {{e: {{kind: command, cmd: '{cmd}'}}}}")
    assert [line.startswith("engines.e.cmd: ") and note in line for line in lines] == [True] * (note is not None)


def test_secrets_that_are_sent_unencrypted_are_noted():
    notes = advice("""
upstreams:
  a: {base_url: "http://a.example/v1", api_keys: ["env:A"]}
  b: {base_url: "http://b.example/v1"}
  c: {base_url: "http://10.0.0.1/v1", api_keys: ["env:A"]}
  d:
    base_url: "https://d.example/v1"
    credentials: [{kind: oauth2, token_url: "http://d.example/token", client_id: x, client_secret: "env:A"}]
""")
    assert [line.partition(":")[0] for line in notes] == [
        "upstreams.a.base_url",
        "upstreams.d.credentials[0].token_url",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "docker",
        "external",
        "hybrid",
        "llama-server",
        "sglang",
        "tensorrt-llm",
        "tidegate",
        "vllm",
        "vllm-ray",
        "vllm-swap",
    ],
)
def test_the_example_configs_have_no_notes(name, request):
    assert list(advise(load(request.config.rootpath / "configs" / f"{name}.yaml"))) == []


def swap_advice(engines: str, swap: str = "") -> list[str]:
    return advice(f"engines: {{{engines}}}\nswap: {{{swap}}}\n")


def engine(name: str, fields: str = "start: on_demand") -> str:
    return f"{name}: {{kind: llamacpp, model: x, {fields}}}"


def test_exclusive_engines_that_all_start_at_once_or_are_pinned_are_noted():
    group = "exclusive: [[a, b, c]]"
    assert swap_advice(f"{engine('a', 'start: eager')}, {engine('b', 'start: eager')}, {engine('c')}", group) == [
        (
            "swap.exclusive[0]: a and b start with the server, but may not be loaded together; "
            "set start: on_demand for all but one"
        )
    ]
    assert swap_advice(f"{engine('a', 'start: eager, pinned: true')}, {engine('b')}, {engine('c')}", group) == [
        "swap.exclusive[0]: a is pinned, so the others cannot be loaded after it; remove pinned"
    ]


def test_a_queue_timeout_shorter_than_the_wait_for_a_swap_is_noted():
    """Only if there is another engine that could make room."""
    short = engine("a", "queue_timeout_s: 5")
    assert swap_advice(f"{short}, {engine('b')}", "max_wait_s: 8") == [
        (
            "swap.max_wait_s: requests for a wait 5 s (engines.a.queue_timeout_s) and give up before an engine with "
            "requests makes room (8 s); set it lower"
        )
    ]
    assert swap_advice(f"{short}, {engine('b')}", "max_wait_s: 4") == []
    assert swap_advice(short, "max_wait_s: 8") == []
