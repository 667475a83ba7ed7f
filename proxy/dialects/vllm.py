"""vLLM's OpenAI server (contract B.2)."""

from proxy.dialects import effort
from proxy.dialects.base import Dialect
from proxy.protocol.request import Fields

# V4.1 answers 400 to `minimal` and `medium` (row 63); V4 reads medium as low (row 62)
_EFFORTS = {"minimal": "low", "medium": "high"}
_SWITCHES = ("thinking", "enable_thinking")


def _adjust(fields: Fields) -> None:
    """Row 54: `thinking` does nothing here, the chat template is what listens."""
    wanted, is_on = effort.take(fields)
    effort.put_effort(fields, wanted, _EFFORTS)
    if is_on is not None:
        effort.put_template_switch(fields, is_on=is_on, names=_SWITCHES)


DIALECT = Dialect(name="vllm", reasoning_history="reasoning", adjust=_adjust)  # row 34
