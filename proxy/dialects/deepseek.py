"""api.deepseek.com (contract B.1)."""

from msgspec import Raw

from proxy.dialects import effort
from proxy.dialects.base import Dialect
from proxy.errors import UnsupportedParameter
from proxy.protocol.request import Fields

_EFFORTS = {"minimal": "low", "low": "low", "medium": "high", "high": "high", "xhigh": "high", "ultra": "max"}


def _adjust(fields: Fields) -> None:
    """Row 14: more choices than one would be ignored in silence.

    Rows 1 and 2: thinking is switched in the body, and the scale has three steps.
    """
    if bytes(fields.pop("n", Raw(b"1"))) != b"1":
        raise UnsupportedParameter("Unsupported parameter: 'n' over 1 is not supported with this model.", param="n")
    wanted = effort.take_effort(fields)
    if wanted == "none":
        fields["thinking"] = Raw(b'{"type":"disabled"}')
    else:
        effort.put_effort(fields, wanted, _EFFORTS)


DIALECT = Dialect(
    name="deepseek",
    paths={"chat": "/chat/completions", "completions": "/beta/completions"},
    max_tokens="max_tokens",  # row 3
    reasoning_history="reasoning_content",  # row 10
    dropped=frozenset(  # row 14
        {
            "metadata",
            "modalities",
            "parallel_tool_calls",
            "prompt_cache_key",
            "seed",
            "service_tier",
            "store",
            "user",
            "verbosity",
        }
    ),
    refused=frozenset({"logit_bias", "audio"}),
    first_byte_timeout_s=60.0,
    keepalive_s=30.0,
    adjust=_adjust,
)
