"""The allow-list of request fields for an engine; `engine_messages` is the one for messages.

An engine opens URLs and file paths that it finds in a request, in more fields with every release, and some fields
affect other callers' requests. So a request to an engine contains only the fields listed here. Any other field is
dropped, which `x-tidegate-adjusted` reports, or refused if it names a URL, path or file.
"""

import re
from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from tidegate.dialects.allowlist_rules import (
    Rule,
    either,
    fields,
    has_address,
    items,
    keep_known,
    scalar,
    schema,
    text,
    unchanged_if,
    word,
)
from tidegate.dialects.request_draft import RequestDraft
from tidegate.protocol.raw import as_list, as_object
from tidegate.protocol.request import json_type, wrong_type

_encode = msgspec.json.Encoder().encode
_REFUSAL = "names a URL, a file or bytes, which may not be sent to a local engine"
_NAMES_RESOURCE = re.compile(
    r"image|audio|video|media|multimodal|embeds|file|path|ur[il]\b|_ur[il]|lora|adapter|draft_model|template|host",
    re.IGNORECASE,
)

# OpenAI's fields, including those that only OpenAI supports (`base.ONLY_OPENAI`).
_OPENAI = """
    audio best_of dimensions echo encoding_format frequency_penalty logit_bias logprobs max_completion_tokens max_tokens
    modalities model moderation n parallel_tool_calls presence_penalty prompt_cache_options prompt_cache_retention
    reasoning_effort seed service_tier store stream stream_options temperature top_logprobs top_p verbosity
    web_search_options
"""
# Fields for sampling, thinking and the output of vLLM, SGLang, llama.cpp, TGI, Ollama, TensorRT-LLM.
_ENGINES = """
    adaptive_decay adaptive_target add_bos_token add_generation_prompt add_special_tokens allowed_token_ids
    backend_sampling ban_eos_token cache_prompt chat_template_kwargs continue_final_message detokenize
    dry_allowed_length dry_base dry_multiplier dry_penalty_last_n dynatemp_exponent dynatemp_range early_stopping
    embd_normalize embed_dtype enable_thinking end_id endianness epsilon_cutoff eta_cutoff grammar_lazy
    guided_decoding_backend ignore_eos include_reasoning include_stop_str_in_output input_ids input_type late_chunking
    length_penalty logit_bias_type logprob_token_ids max_dynamic_patch max_new_tokens min_dynamic_patch min_keep
    min_new_tokens min_p min_tokens mirostat mirostat_eta mirostat_mode mirostat_tau n_cmpl n_discard n_indent n_keep
    n_predict n_prev n_probs no_repeat_ngram_size no_stop_trim normalize nsigma parse_tool_calls post_sampling_probs
    prompt_ignore_length prompt_logprobs prompt_name reasoning reasoning_budget_tokens reasoning_format repeat_last_n
    repeat_penalty repetition_context_size repetition_detection repetition_penalty response_fields
    return_cached_tokens_details return_hidden_states return_meta_info return_progress return_prompt_text
    return_prompt_token_ids return_token_ids return_token_offsets return_tokens return_tokens_as_token_ids samplers
    separate_reasoning skip_special_tokens smoothing_curve smoothing_factor spaces_between_special_tokens
    speculative.n_max speculative.n_min speculative.p_min stop_token_ids stream_interval stream_reasoning
    t_max_predict_ms t_max_prompt_ms task temperature_last tfs tfs_z think thinking thinking_budget
    thinking_budget_tokens thinking_forced_open thinking_token_budget timings_per_token top_a top_k top_n_sigma
    top_p_min truncate truncate_prompt_tokens truncation_side typical typical_p use_activation use_audio_in_video
    use_beam_search watermarking xtc_probability xtc_threshold
"""
_SETTINGS = frozenset(f"{_OPENAI} {_ENGINES}".split())
_LABELS = frozenset({"metadata", "prompt_cache_key", "safety_identifier", "user", "user_id"})
_PROMPTS = frozenset({"prompt", "input"})
# Keys of `chat_template_kwargs` that are settings of the template engine, not variables of the template.
_TEMPLATE_SETTINGS = frozenset({"chat_template", "tokenize", "return_dict", "return_tensors", "processor_kwargs"})


class _CommonFunction(Struct, forbid_unknown_fields=True):
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Raw] | None = None
    strict: bool | None = None


class _CommonTool(Struct, forbid_unknown_fields=True):
    """A tool with only common fields, which is kept unchanged (see `unchanged_if`)."""

    type: Literal["function"] | None = None
    function: _CommonFunction | None = None


_NAMED = fields(name=text)
_FUNCTION = fields(name=text, description=text, parameters=schema, strict=scalar, defer_loading=scalar)
_CUSTOM = fields(name=text, description=text, format=schema)  # refused later, by `tools.restrict_to_functions`
_TOOL = fields(type=word, function=_FUNCTION, custom=_CUSTOM, defer_loading=scalar)
_CHOSEN = {"type": word, "name": text, "function": _NAMED, "custom": _NAMED}


def restrict_fields(draft: RequestDraft) -> None:
    """Keep the allowed fields, rebuilt by their rules; drop or refuse the others.

    Raises:
        UnsupportedParameter: a field names a URL, path or file.
        MalformedRequest: a prompt is neither text nor tokens, or a schema refers to another document.
    """
    for name, value in list(draft.fields.items()):
        if name in _SETTINGS:
            _restrict_setting(draft, name, value)
        elif name in _PROMPTS:
            _check_prompt(name, value)
        elif (rule := _RULES.get(name)) is not None:
            dropped: set[str] = set()
            _keep_or_drop(draft, name, rule(value, name, dropped))
            draft.note_dropped(name, dropped)
        elif name != "messages":
            _drop_or_refuse(draft, name, value)


def _restrict_setting(draft: RequestDraft, name: str, value: Raw) -> None:
    if json_type(value) not in {"string", "object", "array"}:
        return
    setting = msgspec.json.decode(value)
    if has_address(setting):
        draft.drop_or_refuse(name, why=_REFUSAL)
        return
    if name == "chat_template_kwargs" and isinstance(setting, dict):
        draft.note_dropped(name, _TEMPLATE_SETTINGS & setting.keys())
        setting = {key: value for key, value in setting.items() if key not in _TEMPLATE_SETTINGS}
    draft.put(name, setting)


def _drop_or_refuse(draft: RequestDraft, name: str, value: Raw) -> None:
    if draft.is_default(name):
        del draft.fields[name]
    elif _NAMES_RESOURCE.search(name) is not None or has_address(msgspec.json.decode(value)):
        draft.drop_or_refuse(name, why=_REFUSAL)
    else:
        _keep_or_drop(draft, name, None)


def _check_prompt(name: str, raw: Raw) -> None:
    """Check that a prompt is a string, an array of tokens, or an array of these.

    Raises:
        MalformedRequest: the prompt holds an object, which engines read media from.
    """
    if json_type(raw) == "string" or (json_type(raw) == "array" and b"{" not in bytes(raw)):
        return
    _check_no_objects(name, raw)


def _check_no_objects(at: str, raw: Raw) -> None:
    if json_type(raw) == "object":
        raise wrong_type(at, "a string or an array of tokens", "an object")
    for place, item in enumerate(as_list(raw)):
        _check_no_objects(f"{at}[{place}]", item)


def _keep_or_drop(draft: RequestDraft, name: str, value: Raw | None) -> None:
    if value is None:
        del draft.fields[name]
        draft.note(name, "dropped")
    else:
        draft.fields[name] = value


def _media_settings(raw: Raw, at: str, dropped: set[str]) -> Raw | None:
    """A rule for settings for reading media: numbers, words, and objects or arrays of these."""
    kind = json_type(raw)
    if kind == "object":
        return Raw(_encode(keep_known(given := as_object(raw), dict.fromkeys(given, _media_settings), at, dropped)))
    if kind == "array":
        return items(_media_settings)(raw, at, dropped)
    return word(raw, at, dropped) if kind == "string" else raw


def _label(raw: Raw, _at: str, _dropped: set[str]) -> Raw | None:
    """A rule for a value that engines do not interpret; the value is dropped if it holds a URL or path."""
    label = msgspec.json.decode(raw)
    return None if has_address(label) else Raw(_encode(label))


# Fields that hold schemas, grammars, patterns or words that constrain the output.
_CONSTRAINTS = """
    bad_words dry_sequence_breakers ebnf grammar grammar_triggers guided_choice guided_grammar guided_json guided_regex
    guided_whitespace_pattern instruction json_schema preserved_tokens regex stop stop_regex structural_tag suffix
    tool_prompt
"""
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_CONSTRAINTS.split(), schema),
    **dict.fromkeys(_LABELS, _label),
    "documents": items(fields(id=text, doc_id=text, title=text, text=text, contents=text)),
    "functions": items(_FUNCTION),
    "function_call": either(text, _NAMED),
    "media_io_kwargs": _media_settings,
    "mm_processor_kwargs": _media_settings,
    "prediction": fields(type=word, content=either(text, items(fields(type=word, text=text)))),
    "response_format": fields(
        type=word,
        json_schema=fields(name=text, description=text, strict=scalar, schema=schema),
        **dict.fromkeys(("schema", "value", "structures", "triggers", "format"), schema),
    ),
    "structured_outputs": fields(
        json_object=scalar,
        disable_any_whitespace=scalar,
        disable_additional_properties=scalar,
        **dict.fromkeys(("json", "regex", "choice", "grammar", "whitespace_pattern", "structural_tag"), schema),
    ),
    "tools": unchanged_if(msgspec.json.Decoder(list[_CommonTool]), items(_TOOL)),
    "tool_choice": either(
        text, fields(**_CHOSEN, mode=word, allowed_tools=fields(mode=word, tools=items(fields(**_CHOSEN))))
    ),
}
