"""The privacy line: how far a request may go.

`local_only` is never crossed, whoever else says what: it holds if any of key, model and config says it. Of the others
the most specific one holds: the key's, else the model's, else the config's. A caller may narrow that, never widen it.
"""

from tidegate.errors import NotPermitted
from tidegate.protocol.routing import REACH_HEADER, REACHES, Reach


def combine(default: Reach, model: Reach | None, key: Reach | None) -> Reach:
    """What the operator allows."""
    if "local_only" in {default, model, key}:
        return "local_only"
    return key or model or default


def narrow(allowed: Reach, wished: Reach | None) -> Reach:
    """What holds for a request whose caller wishes something.

    Raises:
        NotPermitted: it wishes for more than it may have.
    """
    if wished is None:
        return allowed
    if REACHES.index(wished) > REACHES.index(allowed):
        raise NotPermitted(
            f"'{REACH_HEADER}: {wished}' would widen what is allowed here, '{allowed}'. A request may only narrow it.",
            param=REACH_HEADER,
        )
    return wished
