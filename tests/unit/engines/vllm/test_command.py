"""The command line and the environment of vLLM: one expected result for every flag and variable."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.config.engines import VllmConfig
from tidegate.engines.base import PermanentEngineError
from tidegate.engines.vllm import server as vllm_server
from tidegate.engines.vllm.checkpoint import Checkpoint
from tidegate.engines.vllm.command import Machine, build_command, checking_command, is_multi_host

PLAIN = Checkpoint(name="org/plain")
R1 = Checkpoint(name="deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", architectures=("Qwen2ForCausalLM",))
GPU = Machine(python="/venv/bin/python", gpus=(0,))
CPU = Machine(python="/venv/bin/python", is_cpu=True)

ALWAYS = [
    "--served-model-name r1",
    "--uds /run/engine.sock",
    "--shutdown-timeout 5",
    "--enable-request-id-headers",
    "--enable-prompt-tokens-details",
    "--disable-uvicorn-access-log",
]
ALWAYS_SET = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "600",
    "VLLM_HOST_IP": "127.0.0.1",
    "CUDA_VISIBLE_DEVICES": "0",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "VLLM_API_KEY": "key",
}

NO_GPU = {"CUDA_VISIBLE_DEVICES": None, "CUDA_DEVICE_ORDER": None}


def build(checkpoint=PLAIN, machine=GPU, **config):
    config = VllmConfig(model=config.pop("model", checkpoint.name), **config)
    return build_command("r1", config, checkpoint, machine, socket_path="/run/engine.sock", api_key="key")


def flags(checkpoint=PLAIN, machine=GPU, **config):
    """Return the arguments after the model, one line for each flag, without the flags in `ALWAYS`."""
    lines = []
    for part in build(checkpoint, machine, **config).argv[3:]:
        if part.startswith("--"):
            lines.append(part)
        else:
            lines[-1] += f" {part}"
    assert lines[: len(ALWAYS)] == ALWAYS
    return lines[len(ALWAYS) :]


def variables(machine=GPU, **config):
    """Return the variables that differ from `ALWAYS_SET`; None: the variable is not set."""
    found = build(PLAIN, machine, **config).environment
    names = sorted(found.keys() | ALWAYS_SET.keys())
    return {name: found.get(name) for name in names if found.get(name) != ALWAYS_SET.get(name)}


def test_the_whole_command():
    command = build()
    assert command.argv == [
        "/venv/bin/python",
        vllm_server.__file__,
        "org/plain",
        "--served-model-name",
        "r1",
        "--uds",
        "/run/engine.sock",
        "--shutdown-timeout",
        "5",
        "--enable-request-id-headers",
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
    ]
    assert command.environment == ALWAYS_SET


def test_the_key_is_in_no_argument():
    assert not any("key" in part for part in build().argv)


@pytest.mark.parametrize(
    ("key", "value", "flag"),
    [
        ("gpu_memory_utilization", 0.85, "--gpu-memory-utilization 0.85"),
        ("gpu_memory_utilization", 1.0, "--gpu-memory-utilization 1.0"),
        ("max_model_len", 32768, "--max-model-len 32768"),
        ("kv_cache_dtype", "fp8", "--kv-cache-dtype fp8"),
        ("quantization", "awq", "--quantization awq"),
        ("cpu_offload_gb", 1.0, "--cpu-offload-gb 1.0"),
        ("tensor_parallel_size", 2, "--tensor-parallel-size 2"),
        ("pipeline_parallel_size", 2, "--pipeline-parallel-size 2"),
        ("data_parallel_size", 2, "--data-parallel-size 2"),
        ("enable_expert_parallel", True, "--enable-expert-parallel"),
        ("sleep_level", 1, "--enable-sleep-mode"),
        ("sleep_level", 2, "--enable-sleep-mode"),
        ("distributed", "ray", "--distributed-executor-backend ray"),
        ("runtime_adapters", True, "--enable-lora"),
    ],
)
def test_a_key_of_the_config_becomes_a_flag(key, value, flag):
    assert flags(**{key: value}) == [flag]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DeepSeek-V3", ["--tool-call-parser deepseek_v3", "--enable-auto-tool-choice"]),
        (
            "DeepSeek-R1",
            ["--reasoning-parser deepseek_r1", "--tool-call-parser deepseek_v3", "--enable-auto-tool-choice"],
        ),
        (
            "DeepSeek-V3.1",
            [
                "--reasoning-parser deepseek_v3",
                "--tool-call-parser deepseek_v31",
                '--default-chat-template-kwargs {"thinking": false}',
                "--enable-auto-tool-choice",
            ],
        ),
        (
            "DeepSeek-V3.2",
            [
                "--reasoning-parser deepseek_v3",
                "--tool-call-parser deepseek_v32",
                "--tokenizer-mode deepseek_v32",
                '--default-chat-template-kwargs {"thinking": false}',
                "--enable-auto-tool-choice",
            ],
        ),
        (
            "DeepSeek-V4-Flash",
            [
                "--reasoning-parser deepseek_v4",
                "--tool-call-parser deepseek_v4",
                "--tokenizer-mode deepseek_v4",
                "--enable-auto-tool-choice",
            ],
        ),
    ],
)
def test_a_deepseek_model_gets_its_parsers(name, expected):
    assert flags(Checkpoint(name=name)) == expected


def test_a_template_that_does_not_list_tools_is_extended():
    own = "<｜Assistant｜><｜tool▁calls▁begin｜> thinking </think>"
    checkpoint = Checkpoint(name="DeepSeek-V3.1", architectures=("DeepseekV3ForCausalLM",), template=own)
    argv = list(build(checkpoint).argv)
    given = argv[argv.index("--chat-template") + 1]
    assert given.endswith(own)
    assert "## Tools" in given


# --- args: flags from the config --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"enable_prefix_caching": True}, ["--enable-prefix-caching"]),
        ({"enable-prefix-caching": True}, ["--enable-prefix-caching"]),
        ({"--enable-prefix-caching": True}, ["--enable-prefix-caching"]),
        ({"enable_prefix_caching": False}, ["--no-enable-prefix-caching"]),
        ({"no_enable_prefix_caching": True}, ["--no-enable-prefix-caching"]),
        ({"max_num_seqs": 64}, ["--max-num-seqs 64"]),
        ({"kv_cache_memory_bytes": "64M"}, ["--kv-cache-memory-bytes 64M"]),
        ({"speculative_config": {"method": "mtp"}}, ['--speculative-config {"method": "mtp"}']),
        ({"compilation_config.mode": 3}, ["--compilation-config.mode 3"]),
        ({"cudagraph_capture_sizes": [1, 2, 4]}, ["--cudagraph-capture-sizes 1 2 4"]),
        ({"cudagraph_capture_sizes": []}, []),
        ({"hf_overrides": [{"a": "ü"}]}, ['--hf-overrides {"a": "ü"}']),
        ({"seed": -1}, ["--seed=-1"]),
        ({"revision": "--uds"}, ["--revision=--uds"]),
    ],
)
def test_other_args_are_passed_on_as_flags(args, expected):
    assert flags(args=args) == expected


def test_args_override_the_chosen_flags():
    expected = flags(
        R1, args={"reasoning_parser": "deepseek_v3", "tool_call_parser": None, "enforce_eager": False}, machine=CPU
    )
    assert expected == ["--reasoning-parser deepseek_v3", "--no-enforce-eager"]


def test_a_parser_for_tool_calls_in_args_switches_automatic_tool_choice_on():
    assert flags(args={"tool_call_parser": "hermes"}) == ["--tool-call-parser hermes", "--enable-auto-tool-choice"]


def test_flags_that_are_always_set_can_be_unset():
    assert "--enable-prompt-tokens-details" not in build(args={"enable_prompt_tokens_details": None}).argv
    assert "--no-enable-prompt-tokens-details" in build(args={"no-enable-prompt-tokens-details": True}).argv


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"uds": "/tmp/x"}, "Tidegate says where the engine listens"),
        ({"host": "0.0.0.0"}, "Tidegate says where the engine listens"),
        ({"por": 80}, "Tidegate says where the engine listens"),
        ({"api_key": "x"}, "a new key for each start"),
        ({"api-k": "x"}, "a new key for each start"),
        ({"--api-key": "x"}, "a new key for each start"),
        ({"config": "x.yaml"}, "under args"),
        ({"ssl_keyfile": "x"}, "private socket"),
        ({"model": "x"}, "the key model"),
        ({"served_model_name": "x"}, "under models"),
        ({"lora_modules": ["x=y"]}, "the key adapters"),
        ({"max_model_len": 1}, "the key max_model_len"),
        ({"tensor-parallel-size": 2}, "the key tensor_parallel_size"),
        ({"": 1}, "not the name of a flag"),
        ({"x --uds": 1}, "not the name of a flag"),
        ({"-tp": 2}, "not the name of a flag"),
    ],
)
def test_flags_that_tidegate_or_another_key_sets_are_refused(args, expected):
    with pytest.raises(PermanentEngineError, match=expected):
        build(args=args)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z0-9_-]{0,12}", fullmatch=True),
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(st.text(max_size=4), max_size=3),
        max_size=4,
    )
)
def test_no_args_can_change_the_address_of_the_engine(args):
    try:
        argv = list(build(args=args).argv)
    except PermanentEngineError:
        return
    assert argv[argv.index("--uds") + 1] == "/run/engine.sock"
    owned = ("--uds", "--ud", "--u", "--host", "--port", "--api-key", "--config")
    assert [part for part in argv if part.partition("=")[0] in owned] == ["--uds"]


# --- environment ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "set_too"),
    [
        ({"sleep_level": 1}, {"VLLM_SERVER_DEV_MODE": "1"}),
        ({"runtime_adapters": True}, {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}),
        ({"distributed": "ray"}, NO_GPU | {"RAY_ADDRESS": "auto", "VLLM_HOST_IP": None}),
        ({"args": {"data_parallel_address": "10.0.0.1"}}, NO_GPU | {"VLLM_HOST_IP": None}),
        ({"environment": {"OMP_NUM_THREADS": "1"}}, {"OMP_NUM_THREADS": "1"}),
        ({"environment": {"VLLM_HOST_IP": "10.0.0.1"}}, {"VLLM_HOST_IP": "10.0.0.1"}),
        ({"environment": {"CUDA_VISIBLE_DEVICES": "MIG-1"}}, {"CUDA_VISIBLE_DEVICES": "MIG-1"}),
    ],
)
def test_a_key_of_the_config_becomes_an_environment_variable(config, set_too):
    assert variables(**config) == set_too


def test_vllm_sees_the_gpus_on_which_it_is_placed():
    machine = Machine(python="python", gpus=(1, 3))
    assert variables(machine) == {"CUDA_VISIBLE_DEVICES": "1,3"}


def test_gpu_numbers_count_the_gpus_that_tidegate_may_see():
    machine = Machine(python="python", gpus=(1, 2), environment={"CUDA_VISIBLE_DEVICES": "4,GPU-5,6"})
    assert variables(machine) == {"CUDA_VISIBLE_DEVICES": "GPU-5,6"}


def test_without_known_gpus_no_gpu_variable_is_set():
    assert variables(Machine(python="python")) == NO_GPU


def test_an_inherited_address_of_a_ray_cluster_is_kept():
    machine = Machine(python="python", environment={"RAY_ADDRESS": "10.0.0.1:6379"})
    assert "RAY_ADDRESS" not in build(machine=machine, distributed="ray").environment


def test_the_environment_cannot_set_the_api_key():
    with pytest.raises(PermanentEngineError, match="VLLM_API_KEY cannot be set there"):
        build(environment={"VLLM_API_KEY": "mine"})


# --- where it runs ----------------------------------------------------------------------------------------------------


def test_a_build_for_cpus_compiles_nothing_and_sees_no_gpu():
    assert flags(machine=CPU) == ["--enforce-eager"]
    assert variables(CPU) == NO_GPU


def test_a_build_for_cpus_sleeps_without_the_flag():
    """That build refuses the flag, but it has the routes, which pause it."""
    assert flags(machine=CPU, sleep_level=1) == ["--enforce-eager"]
    assert variables(CPU, sleep_level=1)["VLLM_SERVER_DEV_MODE"] == "1"


def test_with_ray_the_data_parallel_ranks_run_on_ray_too():
    assert flags(distributed="ray", data_parallel_size=2) == [
        "--data-parallel-size 2",
        "--distributed-executor-backend ray",
        "--data-parallel-backend ray",
    ]


@pytest.mark.parametrize(
    ("config", "spread"),
    [
        ({}, False),
        ({"tensor_parallel_size": 8}, False),
        ({"distributed": "ray"}, True),
        ({"args": {"nnodes": 2}}, True),
        ({"args": {"data_parallel_size_local": 1}}, True),
    ],
)
def test_an_engine_on_several_machines_is_recognised(config, spread):
    assert is_multi_host(VllmConfig(model="m", **config)) is spread


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_adapters_are_passed_with_their_names():
    expected = flags(machine=Machine(python="python", adapter_rank=24), adapters={"sql": "/a,b=c", "law": "org/law"})
    modules = [{"name": "sql", "path": "/a,b=c"}, {"name": "law", "path": "org/law"}]
    assert expected == [
        "--enable-lora",
        " ".join(["--lora-modules", *(json.dumps(module) for module in modules)]),
        "--max-lora-rank 32",
    ]


@pytest.mark.parametrize(("rank", "limit"), [(1, "1"), (16, "16"), (17, "32"), (400, "512"), (1000, "1000")])
def test_a_rank_is_rounded_up_to_a_value_that_vllm_accepts(rank, limit):
    machine = Machine(python="python", adapter_rank=rank)
    assert flags(machine=machine, adapters={"a": "/a"})[-1] == f"--max-lora-rank {limit}"


def test_runtime_adapters_need_a_single_api_server():
    assert "--api-server-count 1" in flags(runtime_adapters=True, data_parallel_size=2)


# --- checking only ----------------------------------------------------------------------------------------------------


def test_a_check_is_the_same_command_with_the_option_check():
    command = build(machine=Machine(python=sys.executable))
    checked = checking_command(command)
    assert checked.argv == [sys.executable, vllm_server.__file__, "--check", *command.argv[2:]]
    assert checked.environment == command.environment
