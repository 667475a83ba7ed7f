"""Which engines a new config adds, removes, changes, adjusts or keeps."""

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from tidegate.config.concurrency import AdmissionConfig, ConcurrencyConfig
from tidegate.config.engines import CommandConfig, ExternalConfig, LlamaCppConfig, VllmConfig
from tidegate.config.hooks import HooksConfig
from tidegate.config.secret import Secret
from tidegate.engines.changes import Changes, changes

VLLM = VllmConfig(model="org/r1")
LLAMA = LlamaCppConfig(model="package:x")
COMMAND = CommandConfig(cmd="serve ${PORT}")
EXTERNAL = ExternalConfig(base_url="http://10.0.0.1/v1")

RUNTIME_SETTINGS = {
    "first_byte_timeout_s": 1.0,
    "idle_timeout_s": 1.0,
    "concurrency": ConcurrencyConfig(queue=7),
    "admission": AdmissionConfig(queue=7),
    "start": "on_demand",
    "start_timeout_s": 1.0,
    "queue_timeout_s": 1.0,
    "drain_timeout_s": 1.0,
    "idle_unload_s": 1.0,
    "idle_canary_s": 5,
    "pinned": True,
    "hooks": HooksConfig(after_load="/bin/true"),
}


def one(old, new):
    return changes({"e": old}, {"e": new})


def test_an_engine_is_added_removed_or_kept():
    old, new = {"a": VLLM, "b": LLAMA}, {"c": EXTERNAL, "a": VLLM}
    assert changes(old, new) == Changes(added=("c",), removed=("b",), kept=("a",))


def test_other_flags_of_the_process_change_an_engine():
    assert one(VLLM, structs.replace(VLLM, max_model_len=4096)) == Changes(changed=("e",))
    assert one(VLLM, structs.replace(VLLM, args={"max_num_seqs": 7})) == Changes(changed=("e",))
    assert one(LLAMA, structs.replace(LLAMA, threads=2)) == Changes(changed=("e",))
    assert one(COMMAND, structs.replace(COMMAND, cmd="serve ${SOCKET}")) == Changes(changed=("e",))
    assert one(EXTERNAL, structs.replace(EXTERNAL, base_url="http://10.0.0.2/v1")) == Changes(changed=("e",))


def test_another_kind_of_the_same_name_changes_an_engine():
    assert one(VLLM, LLAMA) == Changes(changed=("e",))


def test_an_engine_with_other_runtime_settings_is_adjusted_and_not_restarted():
    """A large model takes ten minutes to load, which would be too long just for a longer queue."""
    for key, value in RUNTIME_SETTINGS.items():
        assert one(VLLM, structs.replace(VLLM, **{key: value})) == Changes(adjusted=("e",)), key
    for key, value in (RUNTIME_SETTINGS | {"stop_timeout_s": 1.0, "gpu_share": 0.5}).items():
        assert one(COMMAND, structs.replace(COMMAND, **{key: value})) == Changes(adjusted=("e",)), key
    assert one(EXTERNAL, structs.replace(EXTERNAL, api_keys=(Secret("env:K"),))) == Changes(adjusted=("e",))


def test_every_key_that_all_managed_engines_have_but_the_model_is_a_runtime_setting():
    assert set(VllmConfig.__struct_fields__) & set(LlamaCppConfig.__struct_fields__) == {*RUNTIME_SETTINGS, "model"}


CONFIGS = st.dictionaries(
    st.sampled_from("abcd"),
    st.sampled_from(
        [VLLM, structs.replace(VLLM, pinned=True), structs.replace(VLLM, max_model_len=9), LLAMA, EXTERNAL]
    ),
)


@given(CONFIGS, CONFIGS)
@settings(max_examples=100)
def test_each_engine_is_in_one_tuple_and_the_reverse_change_mirrors_it(old, new):
    there, back = changes(old, new), changes(new, old)
    names = [name for field in Changes.__struct_fields__ for name in getattr(there, field)]
    assert sorted(names) == sorted(old | new)
    assert [name for name in new if old.get(name) == new[name]] == list(there.kept)
    assert (set(there.added), set(there.removed)) == (set(back.removed), set(back.added))
    assert (set(there.changed), set(there.adjusted)) == (set(back.changed), set(back.adjusted))
