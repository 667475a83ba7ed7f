"""What in a config does nothing, or not what was meant."""

import pytest
from tidegate.app.advice import advise, is_near
from tidegate.config.load import load, parse

PLACES = """
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
    return advice(f"{PLACES}models: {{m: {{{fields}, targets: [{', '.join(targets)}]}}}}")


@pytest.mark.parametrize(
    ("fields", "targets", "said"),
    [
        (
            "overflow_ttft_s: 2",
            [NEAR, FAR],
            ".overflow_ttft_s: does nothing with policy ordered, but for reach local_first; set policy: local_first",
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
            ".on_stream_failure: continue does nothing for chat, as no target can take up an answer in the middle",
        ),
        (
            "max_price_usd: 1",
            [NEAR, FAR, OTHER],
            (
                ".max_price_usd: what targets[2] (far/b) costs is not known, so the ceiling does not hold there; give "
                "it a card that has a price"
            ),
        ),
    ],
)
def test_what_a_model_says_in_vain_is_told_with_the_cure(fields, targets, said):
    assert on_model(fields, *targets) == [f"models.m{said}"]


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
def test_what_works_is_not_remarked_upon(fields, targets):
    assert on_model(fields, *targets) == []


def test_a_house_that_nothing_may_leave_is_told_of_models_that_are_elsewhere():
    [line] = advice(f"{PLACES}routing: {{reach: local_only}}\nmodels: {{m: {{targets: [{FAR}]}}}}")
    assert (
        line == "models.m.targets: no engine is among them, and routing.reach is local_only: nothing can take a request"
    )


@pytest.mark.parametrize(
    ("url", "near"),
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
def test_an_engine_far_away_may_be_somebody_elses(url, near):
    """It counts as ours: what may not leave this house goes there."""
    told = advice(f'engines: {{theirs: {{kind: external, base_url: "{url}"}}}}')
    assert (told == []) == near == is_near(url)
    assert all("local_only" in line for line in told)


@pytest.mark.parametrize(
    ("cmd", "told"),
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
def test_a_command_that_may_not_do_what_was_meant_is_told(cmd, told):
    lines = advice(f"engines: {{e: {{kind: command, cmd: '{cmd}'}}}}")
    assert [line.startswith("engines.e.cmd: ") and told in line for line in lines] == [True] * (told is not None)


def test_secrets_in_the_clear_are_told():
    told = advice("""
upstreams:
  a: {base_url: "http://a.example/v1", api_keys: ["env:A"]}
  b: {base_url: "http://b.example/v1"}
  c: {base_url: "http://10.0.0.1/v1", api_keys: ["env:A"]}
  d:
    base_url: "https://d.example/v1"
    credentials: [{kind: oauth2, token_url: "http://d.example/token", client_id: x, client_secret: "env:A"}]
""")
    assert [line.partition(":")[0] for line in told] == ["upstreams.a.base_url", "upstreams.d.credentials[0].token_url"]


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
def test_nothing_is_to_be_said_of_our_own_examples(name, request):
    assert list(advise(load(request.config.rootpath / "configs" / f"{name}.yaml"))) == []


def swaps(engines: str, swap: str = "") -> list[str]:
    return advice(f"engines: {{{engines}}}\nswap: {{{swap}}}\n")


def tiny(name: str, fields: str = "start: on_demand") -> str:
    return f"{name}: {{kind: llamacpp, model: x, {fields}}}"


def test_exclusive_engines_that_start_at_once_or_stay_for_ever_are_told():
    group = "exclusive: [[a, b, c]]"
    assert swaps(f"{tiny('a', 'start: eager')}, {tiny('b', 'start: eager')}, {tiny('c')}", group) == [
        (
            "swap.exclusive[0]: a and b start with the server, but may not be loaded together; "
            "set start: on_demand for all but one"
        )
    ]
    assert swaps(f"{tiny('a', 'start: eager, pinned: true')}, {tiny('b')}, {tiny('c')}", group) == [
        "swap.exclusive[0]: a is pinned, so the others cannot be loaded after it; take pinned out"
    ]


def test_requests_that_give_up_before_an_engine_makes_room_for_them_are_told():
    """Where there is another engine that could."""
    short = tiny("a", "queue_timeout_s: 5")
    assert swaps(f"{short}, {tiny('b')}", "max_wait_s: 8") == [
        (
            "swap.max_wait_s: requests for a wait 5 s (engines.a.queue_timeout_s) and give up before an engine with "
            "requests makes room (8 s); set it lower"
        )
    ]
    assert swaps(f"{short}, {tiny('b')}", "max_wait_s: 4") == []
    assert swaps(short, "max_wait_s: 8") == []
