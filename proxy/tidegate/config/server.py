"""`server:` where Tidegate listens, and its limits for callers."""

from typing import Annotated

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0, le=86400)]


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The server's address, and its limits for callers."""

    host: Annotated[
        str, Meta(min_length=1, description="The address to listen at; loopback needs no keys, any other does.")
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="0: the system chooses one, and the banner shows it.")] = 8000
    workers: Annotated[
        int, Meta(ge=1, le=64, description="Processes; more than one needs shared state, which is not built yet.")
    ] = 1
    max_body_bytes: Annotated[
        int, Meta(ge=1024, le=256 * 1024 * 1024, description="A larger request body is refused unread (413).")
    ] = 8 * 1024 * 1024
    body_timeout_s: Annotated[
        Seconds, Meta(description="A request body that takes longer than this to arrive is refused (408).")
    ] = 60.0
    send_timeout_s: Annotated[
        Seconds,
        Meta(
            description="A caller who reads nothing of its stream for this long is disconnected, as its request holds a"
            " slot."
        ),
    ] = 60.0
    shutdown_grace_s: Annotated[
        Seconds, Meta(description="After SIGTERM, running answers get this long; new connections are refused at once.")
    ] = 30.0
    comment_every_s: Annotated[
        Seconds,
        Meta(
            description="How often a stream without a token yet gets a comment, so that the caller does not disconnect."
        ),
    ] = 15.0
    empty_chunk_every_s: Annotated[
        Seconds,
        Meta(description="How often a stream without new tokens gets an empty chunk; LangChain gives up after 120 s."),
    ] = 30.0
