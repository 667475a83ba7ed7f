"""`server:` where Tidegate listens, and how long it waits for callers."""

from typing import Annotated

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0, le=86400)]


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The front door."""

    host: Annotated[str, Meta(min_length=1, description="Loopback needs no keys; any other address does.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="0 lets the system choose; the banner says which.")] = 8000
    workers: Annotated[
        int, Meta(ge=1, le=64, description="Processes; more than one needs shared state, not built yet.")
    ] = 1
    max_body_bytes: Annotated[
        int, Meta(ge=1024, le=256 * 1024 * 1024, description="A larger request body is refused unread (413).")
    ] = 8 * 1024 * 1024
    body_timeout_s: Annotated[
        Seconds, Meta(description="A body that trickles in longer than this is given up (408).")
    ] = 60.0
    send_timeout_s: Annotated[
        Seconds, Meta(description="A caller who reads nothing of its stream for so long is given up: it holds a place.")
    ] = 60.0
    shutdown_grace_s: Annotated[
        Seconds, Meta(description="After SIGTERM, running answers get this long; new connections are refused at once.")
    ] = 30.0
    comment_every_s: Annotated[
        Seconds, Meta(description="A stream without a token yet gets a comment this often, so that nobody hangs up.")
    ] = 15.0
    empty_chunk_every_s: Annotated[
        Seconds,
        Meta(description="A stream fallen silent gets an empty chunk this often; LangChain gives up after 120."),
    ] = 30.0
