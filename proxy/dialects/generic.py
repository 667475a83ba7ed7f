"""A host nobody has described yet: the plainest form of every field, which OpenAI-like servers take."""

from proxy.dialects.base import Dialect

DIALECT = Dialect(name="generic", reasoning_history="reasoning_content")
