"""What hosts send, read by OpenAI's SDK in three ways and LangChain in two: nothing is lost, doubled or summed.

Each client reads every chat scenario in one test, a few at a time, which then tells all that went wrong.
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
class Seen:
    """What a client tells of an answer: its choices, the counts of each usage, the status and the code of an error."""

    choices: list[dict] = field(default_factory=list)
    usage: tuple = ()
    error: tuple | None = None


async def compare(read, wanted, cases=CASES) -> None:
    """Let `read` fill a `Seen` for each case; fail with all that are not as `wanted`."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def check(scenario, mode) -> str | None:
        seen = Seen()
        async with gate:
            try:
                await read(scenario, mode, seen)
            except openai.APIError as error:
                seen.error = (getattr(error, "status_code", None), error.code)
            except Exception as error:  # noqa: BLE001 - a crash is what this looks for
                return f"{scenario.name} {mode}: crashed: {type(error).__name__}: {error}"
        expected = wanted(scenario, mode)
        return None if seen == expected else f"{scenario.name} {mode}:\n  saw  {seen}\n  want {expected}"

    told = await asyncio.gather(*(check(scenario, mode) for scenario, mode in cases))
    if wrong := [complaint for complaint in told if complaint is not None]:
        pytest.fail("\n".join([f"{len(wrong)} of {len(cases)}:", *wrong]), pytrace=False)


# --- what should be seen ------------------------------------------------------------------------------------------


def everything(scenario, mode) -> Seen:
    """All that the outcome says."""
    outcome = scenario.outcome(mode).plain()
    seen = Seen()
    for told in outcome.get("choices", ()):
        calls = [_call(call) for call in told.get("tool_calls", ())]
        calls += [_call(told["function_call"])] if "function_call" in told else []
        seen.choices.append(_choice(told.get("content"), calls, told.get("finish"), told.get("reasoning")))
    if "usage" in outcome:
        seen.usage = tuple(outcome["usage"][name] for name in COUNTS)
    if "error" in outcome:
        seen.error = (outcome["error"]["status"], outcome["error"]["code"])
    return seen


def one_choice(scenario, mode) -> Seen:
    """LangChain takes the first choice, and arguments of "" for an empty object."""
    seen = everything(scenario, mode)
    for choice in seen.choices:
        choice["calls"] = [(name, arguments or {}) for name, arguments in choice["calls"]]
    return replace(seen, choices=seen.choices[:1])


def one_choice_without_reasoning(scenario, mode) -> Seen:
    """`ChatOpenAI` knows no reasoning."""
    seen = one_choice(scenario, mode)
    return replace(seen, choices=[choice | {"reasoning": ""} for choice in seen.choices])


def _choice(content, calls, finish, reasoning) -> dict:
    told = {"content": content or "", "calls": [(name, _parsed(arguments)) for name, arguments in calls]}
    return told | {"finish": finish or "", "reasoning": reasoning or ""}


def _call(call) -> tuple:
    return (call["custom"]["name"], call["custom"]["input"]) if "custom" in call else (call["name"], call["arguments"])


def _parsed(arguments):
    """The object that a JSON text holds; else the text, as a limit may have cut it."""
    try:
        return json.loads(arguments)
    except (ValueError, TypeError):
        return "" if arguments is None else arguments


# --- OpenAI's SDK -------------------------------------------------------------------------------------------------


def asked(scenario) -> dict:
    """The arguments of a call; what the SDK has no name for, or would look into, goes as it is."""
    body = scenario.body("unary")
    given = {"model": body.pop("model"), "messages": body["messages"]}
    return given | {"extra_body": body, "extra_headers": scenario.entry.headers}


STREAM = {"stream": True, "stream_options": {"include_usage": True}}


class Chunks:
    """Joins deltas as an application does, trusting that nothing comes twice."""

    def __init__(self, names) -> None:
        self._names = names
        self._choices: dict[int, dict] = {}
        self._calls: dict[tuple[int, int], list[str]] = {}
        self.usage = ()

    def add(self, chunk) -> None:
        if chunk.usage is not None:
            self.usage += counts(chunk.usage)
        for choice in chunk.choices:
            told = self._choices.setdefault(choice.index, {"content": "", "finish": "", "reasoning": ""})
            told["content"] += choice.delta.content or ""
            told["finish"] += choice.finish_reason or ""
            told["reasoning"] += reasoning(choice.delta, self._names)
            for call in choice.delta.tool_calls or ():
                of_function = call.function or openai.BaseModel.construct(**call.model_extra["custom"])
                self._add_call((choice.index, call.index), of_function)
            if choice.delta.function_call is not None:
                self._add_call((choice.index, 0), choice.delta.function_call)

    def _add_call(self, place, piece) -> None:
        call = self._calls.setdefault(place, ["", ""])
        call[0] += getattr(piece, "name", None) or ""
        call[1] += getattr(piece, "arguments", None) or getattr(piece, "input", None) or ""

    def choices(self) -> list[dict]:
        return [
            _choice(told["content"], self._calls_of(index), told["finish"], told["reasoning"])
            for index, told in sorted(self._choices.items())
        ]

    def _calls_of(self, index) -> list[tuple]:
        return [tuple(call) for (of, _), call in sorted(self._calls.items()) if of == index]


def counts(usage) -> tuple:
    return tuple(getattr(usage, name) for name in COUNTS)


def reasoning(holder, names) -> str:
    """The first field of those asked for; the SDK keeps what it does not know."""
    return (getattr(holder, names[0], None) or "") if names else ""


def look_at(completion, seen, names) -> None:
    """At a whole answer."""
    for choice in completion.choices:
        message = choice.message
        calls = [_call(call.model_dump() | call.model_dump()[call.type]) for call in message.tool_calls or ()]
        calls += [_call(message.function_call.model_dump())] if message.function_call is not None else []
        seen.choices.append(_choice(message.content, calls, choice.finish_reason, reasoning(message, names)))
    if completion.usage is not None:
        seen.usage += counts(completion.usage)


@pytest.fixture
async def client(stage):
    async with openai.AsyncOpenAI(base_url=f"{stage.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


async def test_the_sdk_iterates(stage):
    """The synchronous client."""

    def iterate(scenario, seen) -> None:
        chunks = Chunks(scenario.reasoning_names)
        try:
            for chunk in sync_client.chat.completions.create(**asked(scenario), **STREAM):
                chunks.add(chunk)
        finally:
            seen.choices, seen.usage = chunks.choices(), chunks.usage

    async def read(scenario, mode, seen) -> None:
        await asyncio.to_thread(iterate, scenario, seen)

    with openai.OpenAI(base_url=f"{stage.url}/v1", api_key="unused", max_retries=0) as sync_client:
        await compare(read, everything, STREAMS)


async def test_the_sdk_reads_whole_answers_and_streams(client):
    """The asynchronous client."""

    async def read(scenario, mode, seen) -> None:
        if mode == "unary":
            look_at(await client.chat.completions.create(**asked(scenario)), seen, scenario.reasoning_names)
            return
        chunks = Chunks(scenario.reasoning_names)
        try:
            async for chunk in await client.chat.completions.create(**asked(scenario), **STREAM):
                chunks.add(chunk)
        finally:
            seen.choices, seen.usage = chunks.choices(), chunks.usage

    await compare(read, everything)


async def test_the_strict_helper_of_the_sdk_accumulates(client):
    async def read(scenario, mode, seen) -> None:
        options = STREAM["stream_options"]
        async with client.chat.completions.stream(**asked(scenario), stream_options=options) as stream:
            try:
                async for _ in stream:
                    pass
            finally:
                look_at(stream.current_completion_snapshot, seen, scenario.reasoning_names)

    await compare(read, everything, STREAMS)


# --- LangChain ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "wanted"), [(ChatOpenAI, one_choice_without_reasoning), (ChatDeepSeek, one_choice)])
async def test_langchain_invokes_and_streams(stage, make, wanted):
    """It joins finish reasons and adds up the usages of all chunks, so each must come once."""
    address = {"base_url": f"{stage.url}/v1"} if make is ChatOpenAI else {"api_base": f"{stage.url}/v1"}
    model = make(model="unused", api_key="unused", max_retries=0, stream_usage=True, **address)

    async def read(scenario, mode, seen) -> None:
        given = asked(scenario)
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
                look_at_message(message, seen)

    cases = [(scenario, mode) for scenario, mode in CASES if langchain_can(scenario.outcome(mode), mode)]
    async with model.root_async_client:
        with model.root_client:
            await compare(read, wanted, cases)


def langchain_can(outcome, mode) -> bool:
    """Of several choices in a stream it makes one; on custom tools it crashes, whoever serves them."""
    has_custom = any(call.custom is not None for call in outcome.tool_calls)
    return not has_custom and (mode == "unary" or len(outcome.choices) <= 1)


def look_at_message(message, seen) -> None:
    pieces = getattr(message, "tool_call_chunks", None) or [*message.tool_calls, *message.invalid_tool_calls]
    calls = [(call["name"], call["args"] or "{}") for call in pieces]
    if (function := message.additional_kwargs.get("function_call")) is not None:
        calls.append((function["name"], function["arguments"] or "{}"))
    finish = message.response_metadata.get("finish_reason")
    thought = message.additional_kwargs.get("reasoning_content")
    seen.choices.append(_choice(message.content, calls, finish, thought))
    if (usage := message.usage_metadata) is not None:
        seen.usage += (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"])
