"""`Secret`: a reference to a value that is stored outside the config and is never shown."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self


class Secret:
    """A reference, `env:NAME` or `file:PATH`; the value behind it is read by `resolve` and never printed.

    Raises:
        ValueError: the text is no reference. The message does not repeat it: it may be the secret itself.
    """

    __slots__ = ("reference",)

    def __init__(self, reference: str) -> None:
        scheme, colon, rest = reference.partition(":")
        if scheme not in {"env", "file"} or not colon or not rest:
            raise ValueError(
                "a secret is not written in the config: write env:NAME or file:PATH (your text is not shown here)"
            )
        self.reference = reference

    @classmethod
    def from_env(cls, name: str) -> Self:
        """Return a reference to the environment variable `name`."""
        return cls(f"env:{name}")

    def resolve(self, environ: Mapping[str, str] = os.environ) -> str:
        """Read the value, which has to be usable in an HTTP header.

        Raises:
            ValueError: as `read`; or the value has characters other than printable ASCII, or spaces.
        """
        value = self.read(environ)
        if not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError(f"what {self.reference} holds cannot be sent in a header: only printable ASCII, no spaces")
        return value

    def read(self, environ: Mapping[str, str] = os.environ) -> str:
        """Read the value, without white space around it; it may have several lines.

        Raises:
            ValueError: it is not set, not readable or empty; the message says which, and names the variable or file.
        """
        scheme, _, name = self.reference.partition(":")
        if scheme == "env":
            value = environ.get(name, "").strip()
            if not value:
                raise ValueError(f"the environment variable {name} is not set; export it or take this entry out")
        else:
            try:
                value = Path(name).expanduser().read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
                raise ValueError(f"the file {name} cannot be read ({reason})") from error
            if not value:
                raise ValueError(f"the file {name} is empty")
        return value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reference == self.reference

    def __hash__(self) -> int:
        return hash(self.reference)

    def __repr__(self) -> str:
        return f"Secret({self.reference})"
