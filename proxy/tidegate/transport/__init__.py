"""Connections to upstreams: their timeouts, and the credentials that are sent to an upstream.

wire                one upstream's requests and answers
sessions            opens the aiohttp sessions, and translates aiohttp's exceptions to Tidegate's
pool                the connections that are kept, and which of them are not reused
content_coding      decompresses bodies
credentials         which of an upstream's credentials is used next, and which are in a cooldown
credential_specs    the credentials as they are configured, with their secrets read
auth_headers        the headers that a credential adds to a request: fixed, or with a token that is renewed in time
oauth               where such a token comes from: a token endpoint (RFC 6749), or a key of the operator's
jwt                 signs the JWTs that prove Tidegate's identity (RFC 7523)
"""
