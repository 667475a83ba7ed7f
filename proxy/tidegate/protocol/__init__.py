"""OpenAI's wire format: structs of requests and answers, errors, usage and SSE framing. Pure: no I/O, no policy."""
