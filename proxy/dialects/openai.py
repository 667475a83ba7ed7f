"""api.openai.com: the reference, so almost nothing is changed."""

from proxy.dialects.base import Dialect

DIALECT = Dialect(name="openai", system_role=None, joins_text=False, first_byte_timeout_s=60.0, keepalive_s=30.0)
