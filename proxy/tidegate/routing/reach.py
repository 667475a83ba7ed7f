"""The privacy line: how far a request may go.

If any of key, model and config says `local_only`, it holds, whatever the others say. Otherwise the most specific value
holds: the key's, else the model's, else the config's. A caller may narrow it, never widen it.
"""

from tidegate.errors import NotPermitted
from tidegate.protocol.routing import REACH_HEADER, REACHES, Reach


def combine(default: Reach, model: Reach | None, key: Reach | None) -> Reach:
    """The reach that the operator allows."""
    if "local_only" in {default, model, key}:
        return "local_only"
    return key or model or default


def narrow(allowed: Reach, chosen: Reach | None) -> Reach:
    """The reach of a request whose caller has chosen a reach, or none.

    Raises:
        NotPermitted: the caller has chosen a wider reach than allowed.
    """
    if chosen is None:
        return allowed
    if REACHES.index(chosen) > REACHES.index(allowed):
        raise NotPermitted(
            f"'{REACH_HEADER}: {chosen}' would widen what is allowed here, '{allowed}'. A request may only narrow it.",
            param=REACH_HEADER,
        )
    return chosen
