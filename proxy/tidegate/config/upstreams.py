"""`upstreams:` hosts elsewhere."""

from typing import Annotated, Literal

from msgspec import Meta, Struct
from yarl import URL

from tidegate.config.concurrency import OLD_NAME, AdmissionConfig, ConcurrencyConfig
from tidegate.config.credentials import CredentialConfig
from tidegate.config.secret import Secret
from tidegate.config.server import Seconds

BASE_URL = r"^https?://[^\s/@?#]+(/[^\s?#]*)?$(?!\n)"
DialectName = Literal[
    "openai",
    "azure",
    "deepseek",
    "vllm",
    "sglang",
    "llamacpp",
    "llama_cpp_python",
    "ollama",
    "tgi",
    "together",
    "groq",
    "fireworks",
    "deepinfra",
    "meta_llama",
    "meta_llama_native",
    "openrouter",
    "bedrock",
    "generic",
]


def url_fault(url: str) -> str | None:
    """What is wrong with a URL that looks like one; None: nothing."""
    try:
        parsed = URL(url)
        (parsed.raw_host or "").encode("idna")
        is_good = bool(parsed.raw_host) and parsed.port not in {None, 0}
    except ValueError:
        is_good = False
    return None if is_good else "no address can be made of it; write it as https://HOST/v1 or http://HOST:PORT/v1"


class UpstreamConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One host."""

    base_url: Annotated[
        str,
        Meta(
            pattern=BASE_URL,
            description="As an SDK would take it, with /v1 where the host has it.",
        ),
    ]
    dialect: Annotated[DialectName, Meta(description="The host's accent; generic suits what is not listed.")] = (
        "generic"
    )
    api_keys: Annotated[
        tuple[Secret, ...], Meta(description="The host's keys, used in turn; none where it wants none.")
    ] = ()
    credentials: Annotated[
        tuple[CredentialConfig, ...],
        Meta(description="Beside those: keys with a weight or an account, OAuth 2.0, signed JWTs."),
    ] = ()
    api_version: Annotated[
        Annotated[str, Meta(pattern=r"^[0-9A-Za-z-]+$")] | None,
        Meta(description="azure: the version of its deployment URLs; null: its /openai/v1 URLs."),
    ] = None
    max_connections: Annotated[
        int, Meta(ge=1, le=65535, description="At once; further requests wait for one to be free.")
    ] = 1000
    connect_timeout_s: Annotated[Seconds, Meta(description="Until the connection stands.")] = 5.0
    first_byte_timeout_s: Annotated[
        Seconds | None, Meta(description="Until a stream begins; null: the dialect's (hosted 60, own engines 600).")
    ] = None
    answer_timeout_s: Annotated[Seconds, Meta(description="Until an answer that is not streamed begins.")] = 600.0
    idle_timeout_s: Annotated[Seconds, Meta(description="Silence in the middle of an answer.")] = 120.0
    keepalive_s: Annotated[
        Seconds | None, Meta(description="How long an idle connection is kept; null: the dialect's, below the host's.")
    ] = None
    concurrency: Annotated[ConcurrencyConfig, Meta(description="How many requests it has at once.")] = (
        ConcurrencyConfig()
    )
    admission: Annotated[AdmissionConfig | None, OLD_NAME] = None
