"""vLLM's OpenAI server (contract B.2)."""

from tidegate.dialects.base import ENGINE_PARTS, ONLY_OPENAI, Dialect
from tidegate.dialects.messages import Rules
from tidegate.dialects.request_draft import RequestDraft
from tidegate.dialects.thinking import Thinking, put_effort, put_template_switch
from tidegate.protocol.raw import as_object
from tidegate.protocol.request import json_type

# Used if the model's card has no efforts: V4.1 answers 400 to `minimal` and `medium` (row 63), V4 reads `medium` as low
# (row 62).
_EFFORTS = {"minimal": "low", "medium": "high"}
_SWITCHES = ("thinking", "enable_thinking")
_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_whitespace_pattern": "whitespace_pattern",
}
_MIN_SAMPLING_TEMPERATURE = 0.01  # the lowest temperature that is not greedy
_MIN_TOP_P = 1e-06

_put_effort = put_effort(_EFFORTS, off=None)


def put_thinking(draft: RequestDraft, thinking: Thinking) -> None:
    """Set the template's switch: vLLM ignores the field `thinking` (row 54), and some models need a switch (row 64)."""
    efforts = draft.card.efforts
    put = _put_effort if efforts is None else put_effort(efforts, off=None)
    put(draft, thinking)
    if thinking.is_on is not None:
        put_template_switch(draft, _SWITCHES, is_on=thinking.is_on)


def _adjust(draft: RequestDraft) -> None:
    _rename_guided(draft)
    _clamp(draft)


def _rename_guided(draft: RequestDraft) -> None:
    """Row 55: rename the fields `guided_*`, which newer versions ignore without an error."""
    if _GUIDED.keys().isdisjoint(draft.fields):
        return
    renamed = {new: value for old, new in _GUIDED.items() if (value := draft.fields.pop(old, None)) is not None}
    draft.put("structured_outputs", renamed | as_object(draft.fields.get("structured_outputs")))


def _clamp(draft: RequestDraft) -> None:
    """Row 76d: change values that OpenAI accepts and vLLM refuses."""
    fields = draft.fields
    is_greedy = _number(draft, "temperature") == 0
    if is_greedy and (_number(draft, "n") or 1) > 1:
        draft.put("temperature", _MIN_SAMPLING_TEMPERATURE)
        draft.note("temperature", _MIN_SAMPLING_TEMPERATURE)
    if _number(draft, "top_p") == 0:
        draft.put("top_p", _MIN_TOP_P)
        draft.note("top_p", _MIN_TOP_P)
    window = draft.card.context_window
    if window is None:
        return
    for name in ("max_tokens", "max_completion_tokens"):
        limit = _number(draft, name)
        if limit is not None and limit >= window:
            del fields[name]  # without it the rest of the window is the limit
            draft.note(name, "dropped")


def _number(draft: RequestDraft, name: str) -> float | None:
    """Return a field's number; None if it is missing or not a number, as not every endpoint has its fields checked."""
    raw = draft.fields.get(name)
    return float(bytes(raw)) if raw is not None and json_type(raw) == "number" else None


DIALECT = Dialect(
    name="vllm",
    rules=Rules(reasoning="reasoning", merges_system=True),  # rows 34, 66
    unsupported_fields=ONLY_OPENAI,
    parts=ENGINE_PARTS,
    fetches_urls=False,
    keeps_template_kwargs=True,
    may_lack_parser=True,
    leaks_markup=True,
    put_thinking=put_thinking,
    answer_prefix="vllm",
    salts_cache=True,
    adjust=_adjust,
    adjust_completion=_adjust,
    reasoning_may_be_answer=True,
    newlines_before_answer=True,
)
