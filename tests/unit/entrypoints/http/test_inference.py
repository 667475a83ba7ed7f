"""The answer to an unexpected exception."""

import json
from contextlib import asynccontextmanager

from tidegate.clock import SystemClock
from tidegate.config.server import ServerConfig
from tidegate.deadline import Deadlines
from tidegate.entrypoints.http.inference import InferenceHandler
from tidegate.entrypoints.http.request_scope import RunningRequests
from tidegate.entrypoints.http.services import Services
from tidegate.protocol.chat import parse_request


class CrashingPipeline:
    @asynccontextmanager
    async def open(self, credentials, read, context):
        raise ZeroDivisionError("the secret reason")
        yield


def services(pipeline) -> Services:
    limits = ServerConfig()
    return Services(
        pipeline=pipeline,
        listing=None,
        feedback=None,
        explainer=None,
        reload=None,
        readiness=None,
        administration=None,
        limits=limits,
        running=RunningRequests(),
        clock=SystemClock(),
        deadlines=Deadlines(),
    )


async def test_an_unexpected_exception_is_an_openai_error_that_does_not_show_the_reason():
    """The caller gets the request id instead, which it can report."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "POST", "headers": [(b"x-request-id", b"mine-1234")], "client": ("127.0.0.1", 1)}
    await InferenceHandler("chat", parse_request, services(CrashingPipeline()))(scope, receive, send)
    error = json.loads(sent[1]["body"])["error"]
    assert sent[0]["status"] == 500
    assert (b"x-request-id", b"mine-1234") in sent[0]["headers"]
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "mine-1234" in error["message"]
    assert "secret" not in error["message"]
