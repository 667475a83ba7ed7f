"""The error messages for invalid configs: file, key, fault and cure."""

import pytest

from tests.fakes.configs import HOST, refusal


@pytest.mark.parametrize(
    ("text", "key", "cure"),
    [
        ("serve: {}", "serve: unknown key", "did you mean server?"),
        ("server: {prot: 1}", "server.prot: unknown key", "did you mean port?"),
        ("server: {zzz: 1}", "server.zzz: unknown key", "known here: body_timeout_s, "),
        (f"upstreams: {{a: {{{HOST}, api_key: env:A}}}}", "upstreams.a.api_key: unknown key", "did you mean api_keys?"),
        (
            "models: {m: {targets: [{upstrem: a}]}}",
            "models.m.targets[0].upstrem: unknown key",
            "did you mean upstream?",
        ),
        ("models: {m: {polisy: ordered}}", "models.m.polisy: unknown key", "did you mean policy?"),
        (
            "engines: {a: {kind: llamacpp, model: x, thread: 1}}",
            "engines.a.thread: unknown key",
            "did you mean threads?",
        ),
        (
            "server: {port: 70000}",
            "server.port: must be a whole number, at most 65535",
            "configs/tidegate.yaml shows every key",
        ),
        ("server: {port: '80'}", "server.port: must be a whole number, not text", "configs/tidegate.yaml"),
        ("server: {port: 80.5}", "server.port: must be a whole number", "configs/tidegate.yaml"),
        (
            "server: {body_timeout_s: 0}",
            "server.body_timeout_s: must be a number, more than 0",
            "configs/tidegate.yaml",
        ),
        ("server: {body_timeout_s: .nan}", "server.body_timeout_s:", "configs/tidegate.yaml"),
        ("server: {body_timeout_s: .inf}", "server.body_timeout_s:", "configs/tidegate.yaml"),
        ("server: 5", "server: must be a mapping, not a whole number", "configs/tidegate.yaml"),
        ("server: {1: 2}", "server: ", "; "),
        ("telemetry: {log_level: warn}", "telemetry.log_level: 'warn' is not a known value", "did you mean warning?"),
        ("telemetry: {log_format: xml}", "telemetry.log_format: ", "known here: auto, console, json"),
        (f"upstreams: {{a: {{{HOST}, dialect: vlm}}}}", "upstreams.a.dialect: ", "did you mean vllm?"),
        ("engines: {a: {model: x, kind: lamacpp}}", "engines.a.kind: ", "did you mean llamacpp?"),
        (
            "models: {m: {targets: []}}",
            "models.m.targets: must be a list with at least 1 in it",
            "configs/tidegate.yaml",
        ),
        ("models: {m: {}}", "models.m: targets is missing", "configs/tidegate.yaml"),
        ("upstreams: {a: {}}", "upstreams.a: base_url is missing", "configs/tidegate.yaml"),
        ("upstreams: {a: null}", "upstreams.a: must be a mapping, not nothing", "configs/tidegate.yaml"),
        ("upstreams: {a: {base_url: api.example}}", "upstreams.a.base_url: ", "write it as https://HOST/v1"),
        (
            "upstreams: {a: {base_url: 'https://h/v1?x=1'}}",
            "upstreams.a.base_url: must be text in another format;",
            "write it as https://HOST/v1",
        ),
        ('upstreams: {a: {base_url: "https://h/v1\\n"}}', "upstreams.a.base_url: ", "write it as https://HOST/v1"),
        (
            f"upstreams: {{good: {{{HOST}}}, bad: {{{HOST}, max_connections: 0}}}}",
            "upstreams.bad.max_connections: must be a whole number, at least 1",
            "configs/tidegate.yaml",
        ),
        (
            f"upstreams: {{a: {{{HOST}, concurrency: {{limit: adaptative}}}}}}",
            "upstreams.a.concurrency.limit: 'adaptative' is not a known value",
            "did you mean adaptive?",
        ),
        (
            "auth: {callers: {good: {key: env:A}, bad: {key: env:B, reach: everywhere}}}",
            "auth.callers.bad.reach: 'everywhere' is not a known value",
            "known here: any, local_first, local_only, online_first",
        ),
        (
            "auth: {callers: {bad: {kye: env:B}}}",
            "auth.callers.bad.kye: unknown key",
            "did you mean key?",
        ),
        (
            "routing: {reach: null}",
            "routing.reach: must be text, not nothing",
            "known here: any, local_first, local_only, online_first",
        ),
        (
            "models: {m: {targets: [{upstream: a}], progress_in: reasoning}}",
            "models.m.progress_in: 'reasoning' is not a known value",
            "did you mean reasoning_content?",
        ),
        ("engines: {a: {kind: vllm, model: x, start: lazy}}", "engines.a.start: ", "known here: eager, on_demand"),
        ("engines: {a: {kind: vllm, model: x, distributed: rays}}", "engines.a.distributed: ", "did you mean ray?"),
        (
            "engines: {a: {kind: command, cmd: 'x ${PORT}', health_path: health}}",
            "engines.a.health_path: must be text in another format",
            "begin it with /",
        ),
        ("upstreams: []", "upstreams: must be a mapping, not a list", "configs/tidegate.yaml"),
        ("[1]", "the whole file: ", "a config is a mapping"),
        ("just text", "the whole file: ", "a config is a mapping"),
        ("auth: {keys: [env:A, 5]}", "auth.keys[1]: a secret is written env:NAME or file:PATH", "; "),
        ("auth: {keys: env:A}", "auth.keys: must be a list, not text", "; "),
    ],
)
def test_an_error_message_has_file_key_fault_and_cure(text, key, cure):
    message = refusal(text)
    assert message.startswith(f"tidegate.yaml: {key}")
    assert cure in message
