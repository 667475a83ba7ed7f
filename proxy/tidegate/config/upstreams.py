"""`upstreams:` hosted model APIs."""

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
    """Return what is wrong with a URL that matches `BASE_URL`; None: nothing."""
    try:
        parsed = URL(url)
        (parsed.raw_host or "").encode("idna")
        is_good = bool(parsed.raw_host) and parsed.port not in {None, 0}
    except ValueError:
        is_good = False
    return None if is_good else "not a valid URL; write it as https://HOST/v1 or http://HOST:PORT/v1"


class UpstreamConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One host."""

    base_url: Annotated[
        str,
        Meta(
            pattern=BASE_URL,
            description="The base URL as an SDK takes it, with /v1 where the host has it.",
        ),
    ]
    dialect: Annotated[
        DialectName, Meta(description="The host's variant of the OpenAI API; generic for a host that is not listed.")
    ] = "generic"
    api_keys: Annotated[
        tuple[Secret, ...], Meta(description="The host's keys, used in turn; empty: it needs none.")
    ] = ()
    credentials: Annotated[
        tuple[CredentialConfig, ...],
        Meta(description="In addition to api_keys: keys with a weight or an account, OAuth 2.0, signed JWTs."),
    ] = ()
    api_version: Annotated[
        Annotated[str, Meta(pattern=r"^[0-9A-Za-z-]+$")] | None,
        Meta(description="azure: the api-version for its deployment URLs; null: its /openai/v1 URLs are used."),
    ] = None
    max_connections: Annotated[
        int, Meta(ge=1, le=65535, description="The most open connections; further requests wait for one.")
    ] = 1000
    connect_timeout_s: Annotated[Seconds, Meta(description="How long it may take to open a connection.")] = 5.0
    first_byte_timeout_s: Annotated[
        Seconds | None,
        Meta(description="How long it may take until a stream begins; null: the dialect's (hosted 60, engines 600)."),
    ] = None
    answer_timeout_s: Annotated[
        Seconds, Meta(description="How long it may take until an answer that is not streamed begins.")
    ] = 600.0
    idle_timeout_s: Annotated[Seconds, Meta(description="How long it may send nothing in the middle of an answer.")] = (
        120.0
    )
    keepalive_s: Annotated[
        Seconds | None,
        Meta(description="How long an idle connection is kept; null: the dialect's, which is less than the host's."),
    ] = None
    concurrency: Annotated[ConcurrencyConfig, Meta(description="How many requests it gets at once.")] = (
        ConcurrencyConfig()
    )
    admission: Annotated[AdmissionConfig | None, OLD_NAME] = None
