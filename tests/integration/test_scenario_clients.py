"""OpenAI's SDK reads the scenarios in three ways and LangChain in two: nothing is lost, sent twice or summed.

Each client reads every chat scenario in one test, a few at a time, which then reports all differences.
"""

import asyncio
import json
from dataclasses import dataclass, field, replace

import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_deepseek import ChatDeepSeek
from langchain_openai import ChatOpenAI

from tests.fakes.scenarios import read_book

CASES = [
    (scenario, mode)
    for scenario in read_book().scenarios
    if scenario.entry.endpoint == "chat"
    for mode in scenario.modes
]
STREAMS = [(scenario, mode) for scenario, mode in CASES if mode == "stream"]
AT_ONCE = 8
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


@dataclass
class Observed:
    """What a client reads from an answer: its choices, the counts of each usage, the status and code of an error."""

    choices: list[dict] = field(default_factory=list)
    usage: tuple = ()
    error: tuple | None = None


async def compare(read, expect, cases=CASES) -> None:
    """Let `read` fill an `Observed` for each case; fail with all cases that differ from what `expect` returns."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def check(scenario, mode) -> str | None:
        observed = Observed()
        async with limit:
            try:
                await read(scenario, mode, observed)
            except openai.APIError as error:
                observed.error = (getattr(error, "status_code", None), error.code)
            except Exception as error:  # noqa: BLE001 - the test looks for crashes
                return f"{scenario.name} {mode}: crashed: {type(error).__name__}: {error}"
        expected = expect(scenario, mode)
        return None if observed == expected else f"{scenario.name} {mode}:\n  saw  {observed}\n  want {expected}"

    violations = await asyncio.gather(*(check(scenario, mode) for scenario, mode in cases))
    if wrong := [complaint for complaint in violations if complaint is not None]:
        pytest.fail("\n".join([f"{len(wrong)} of {len(cases)}:", *wrong]), pytrace=False)


# --- what is expected ---------------------------------------------------------------------------------------------


def everything(scenario, mode) -> Observed:
    """Return everything in the outcome."""
    outcome = scenario.outcome(mode).plain()
    observed = Observed()
    for choice in outcome.get("choices", ()):
        calls = [_call(call) for call in choice.get("tool_calls", ())]
        calls += [_call(choice["function_call"])] if "function_call" in choice else []
        observed.choices.append(_choice(choice.get("content"), calls, choice.get("finish"), choice.get("reasoning")))
    if "usage" in outcome:
        observed.usage = tuple(outcome["usage"][name] for name in COUNTS)
    if "error" in outcome:
        observed.error = (outcome["error"]["status"], outcome["error"]["code"])
    return observed


def one_choice(scenario, mode) -> Observed:
    """Return what LangChain reads: only the first choice, and an empty object for arguments of ""."""
    observed = everything(scenario, mode)
    for choice in observed.choices:
        choice["calls"] = [(name, arguments or {}) for name, arguments in choice["calls"]]
    return replace(observed, choices=observed.choices[:1])


def one_choice_without_reasoning(scenario, mode) -> Observed:
    """Return what `ChatOpenAI` reads, which does not support reasoning."""
    observed = one_choice(scenario, mode)
    return replace(observed, choices=[choice | {"reasoning": ""} for choice in observed.choices])


def _choice(content, calls, finish, reasoning) -> dict:
    choice = {"content": content or "", "calls": [(name, _parsed(arguments)) for name, arguments in calls]}
    return choice | {"finish": finish or "", "reasoning": reasoning or ""}


def _call(call) -> tuple:
    return (call["custom"]["name"], call["custom"]["input"]) if "custom" in call else (call["name"], call["arguments"])


def _parsed(arguments):
    """Return the object in a JSON text; if it is none, as a limit may have cut it, return the text."""
    try:
        return json.loads(arguments)
    except (ValueError, TypeError):
        return "" if arguments is None else arguments


# --- OpenAI's SDK -------------------------------------------------------------------------------------------------


def call_arguments(scenario) -> dict:
    """Return the arguments of a call; `extra_body` holds fields that the SDK does not define or would check."""
    body = scenario.body("unary")
    given = {"model": body.pop("model"), "messages": body["messages"]}
    return given | {"extra_body": body, "extra_headers": scenario.entry.headers}


STREAM = {"stream": True, "stream_options": {"include_usage": True}}


class Chunks:
    """Joins deltas as an application does, which relies on nothing being sent twice."""

    def __init__(self, names) -> None:
        self._names = names
        self._choices: dict[int, dict] = {}
        self._calls: dict[tuple[int, int], list[str]] = {}
        self.usage = ()

    def add(self, chunk) -> None:
        if chunk.usage is not None:
            self.usage += counts(chunk.usage)
        for choice in chunk.choices:
            joined = self._choices.setdefault(choice.index, {"content": "", "finish": "", "reasoning": ""})
            joined["content"] += choice.delta.content or ""
            joined["finish"] += choice.finish_reason or ""
            joined["reasoning"] += reasoning(choice.delta, self._names)
            for call in choice.delta.tool_calls or ():
                function = call.function or openai.BaseModel.construct(**call.model_extra["custom"])
                self._add_call((choice.index, call.index), function)
            if choice.delta.function_call is not None:
                self._add_call((choice.index, 0), choice.delta.function_call)

    def _add_call(self, key, delta) -> None:
        call = self._calls.setdefault(key, ["", ""])
        call[0] += getattr(delta, "name", None) or ""
        call[1] += getattr(delta, "arguments", None) or getattr(delta, "input", None) or ""

    def choices(self) -> list[dict]:
        return [
            _choice(joined["content"], self._calls_of(index), joined["finish"], joined["reasoning"])
            for index, joined in sorted(self._choices.items())
        ]

    def _calls_of(self, index) -> list[tuple]:
        return [tuple(call) for (of, _), call in sorted(self._calls.items()) if of == index]


def counts(usage) -> tuple:
    return tuple(getattr(usage, name) for name in COUNTS)


def reasoning(holder, names) -> str:
    """Return the first of the requested fields; the SDK keeps fields that it does not define."""
    return (getattr(holder, names[0], None) or "") if names else ""


def add_completion(completion, observed, names) -> None:
    """Add a unary answer to `observed`."""
    for choice in completion.choices:
        message = choice.message
        calls = [_call(call.model_dump() | call.model_dump()[call.type]) for call in message.tool_calls or ()]
        calls += [_call(message.function_call.model_dump())] if message.function_call is not None else []
        observed.choices.append(_choice(message.content, calls, choice.finish_reason, reasoning(message, names)))
    if completion.usage is not None:
        observed.usage += counts(completion.usage)


@pytest.fixture
async def client(stage):
    async with openai.AsyncOpenAI(base_url=f"{stage.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


async def test_the_sdk_iterates(stage):
    """With the synchronous client."""

    def iterate(scenario, observed) -> None:
        chunks = Chunks(scenario.reasoning_names)
        try:
            for chunk in sync_client.chat.completions.create(**call_arguments(scenario), **STREAM):
                chunks.add(chunk)
        finally:
            observed.choices, observed.usage = chunks.choices(), chunks.usage

    async def read(scenario, mode, observed) -> None:
        await asyncio.to_thread(iterate, scenario, observed)

    with openai.OpenAI(base_url=f"{stage.url}/v1", api_key="unused", max_retries=0) as sync_client:
        await compare(read, everything, STREAMS)


async def test_the_sdk_reads_whole_answers_and_streams(client):
    """With the asynchronous client."""

    async def read(scenario, mode, observed) -> None:
        if mode == "unary":
            add_completion(
                await client.chat.completions.create(**call_arguments(scenario)), observed, scenario.reasoning_names
            )
            return
        chunks = Chunks(scenario.reasoning_names)
        try:
            async for chunk in await client.chat.completions.create(**call_arguments(scenario), **STREAM):
                chunks.add(chunk)
        finally:
            observed.choices, observed.usage = chunks.choices(), chunks.usage

    await compare(read, everything)


async def test_the_strict_helper_of_the_sdk_accumulates(client):
    async def read(scenario, mode, observed) -> None:
        options = STREAM["stream_options"]
        async with client.chat.completions.stream(**call_arguments(scenario), stream_options=options) as stream:
            try:
                async for _ in stream:
                    pass
            finally:
                add_completion(stream.current_completion_snapshot, observed, scenario.reasoning_names)

    await compare(read, everything, STREAMS)


# --- LangChain ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "expect"), [(ChatOpenAI, one_choice_without_reasoning), (ChatDeepSeek, one_choice)])
async def test_langchain_invokes_and_streams(stage, make, expect):
    """LangChain joins finish reasons and adds up the usages of all chunks, so each must come once."""
    address = {"base_url": f"{stage.url}/v1"} if make is ChatOpenAI else {"api_base": f"{stage.url}/v1"}
    model = make(model="unused", api_key="unused", max_retries=0, stream_usage=True, **address)

    async def read(scenario, mode, observed) -> None:
        given = call_arguments(scenario)
        del given["messages"]
        message = None
        try:
            if mode == "unary":
                message = await model.ainvoke([HumanMessage("hi")], **given)
            else:
                async for chunk in model.astream([HumanMessage("hi")], **given):
                    message = chunk if message is None else message + chunk
        finally:
            if message is not None:
                add_message(message, observed)

    cases = [(scenario, mode) for scenario, mode in CASES if langchain_can(scenario.outcome(mode), mode)]
    async with model.root_async_client:
        with model.root_client:
            await compare(read, expect, cases)


def langchain_can(outcome, mode) -> bool:
    """Return whether LangChain can read an outcome: it joins the choices of a stream, and crashes on custom tools."""
    has_custom = any(call.custom is not None for call in outcome.tool_calls)
    return not has_custom and (mode == "unary" or len(outcome.choices) <= 1)


def add_message(message, observed) -> None:
    pieces = getattr(message, "tool_call_chunks", None) or [*message.tool_calls, *message.invalid_tool_calls]
    calls = [(call["name"], call["args"] or "{}") for call in pieces]
    if (function := message.additional_kwargs.get("function_call")) is not None:
        calls.append((function["name"], function["arguments"] or "{}"))
    finish = message.response_metadata.get("finish_reason")
    thought = message.additional_kwargs.get("reasoning_content")
    observed.choices.append(_choice(message.content, calls, finish, thought))
    if (usage := message.usage_metadata) is not None:
        observed.usage += (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"])
