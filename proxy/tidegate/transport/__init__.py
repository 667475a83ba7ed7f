"""The wire to upstreams: connections, timeouts, and what we show them.

wire            one upstream's requests and answers
sessions        how any connection of ours is made; foreign exceptions become ours
pool            kept connections, and which of them are not reused
decoding        decompresses bodies
credentials     which of an upstream's credentials is used next, and which rest
specs           the credentials as they are configured, with their secrets read
shown           what a credential puts into a request: fixed headers, or a token that is renewed in time
oauth           where such a token comes from: an endpoint (RFC 6749) or our own key
jwt             signs what proves that we are we (RFC 7523)
"""
