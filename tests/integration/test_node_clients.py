"""openai-node reads the scenarios in three ways, the AI SDK in two: nothing is lost or sent twice, nothing crashes.

tests/node/clients.mjs prints what each client read from each chat scenario; here it is compared with the outcomes.
"""

import asyncio
import fcntl
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fakes import proxy
from tests.fakes.scenarios import read_book

NODE = Path(__file__).parents[1] / "node"
LOCK = NODE / "package-lock.json"
INSTALL = ("npm", "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund")
SCENARIOS = [scenario for scenario in read_book().scenarios if scenario.entry.endpoint == "chat"]

needs_node = pytest.mark.skipif(None in map(shutil.which, ("node", "npm")), reason="node and npm are not on the PATH")


@pytest.fixture(scope="module")
def installed():
    """The clients as locked, in tests/node/node_modules; they are installed again only after the lock has changed."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    marker = NODE / "node_modules" / ".digest"
    with LOCK.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not marker.exists() or marker.read_text() != digest:
            npm = subprocess.run(INSTALL, cwd=NODE, capture_output=True, text=True, check=False)
            assert npm.returncode == 0, npm.stderr
            marker.write_text(digest)


@pytest.fixture(scope="module")
async def lines(installed, stage):
    """Every line that the clients printed, by client and scenario."""
    dumps = [scenario.dump() for scenario in SCENARIOS]
    task = {"base_url": f"{stage.url}/v1", "api_key": "unused", "scenarios": dumps}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
    node = await asyncio.create_subprocess_exec("node", NODE / "clients.mjs", **pipes, env=proxy.environment())
    out, err = await node.communicate(json.dumps(task).encode())
    assert node.returncode == 0, err.decode()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line for line in lines if "client" not in line] == [], "thrown where nobody awaits it"
    return {(line["client"], line["scenario"]): line for line in lines}


def test_the_lock_contains_no_url():
    """Each installation uses its own registry: tests/node/.npmrc leaves out its URLs; funding URLs are cut by hand."""
    assert "://" not in LOCK.read_text()


def test_everything_in_the_lock_has_a_hash():
    packages = json.loads(LOCK.read_text())["packages"]
    assert [name for name, package in packages.items() if name and "integrity" not in package] == []


@needs_node
@pytest.mark.timeout(300)  # npm may have to download
@pytest.mark.parametrize("client", ["openai create", "openai create, streamed", "openai stream helper"])
def test_openai_node_reads_the_outcome(lines, client):
    """Every field is compared; in a stream each role, finish and usage, and each call's id and name, must come once."""
    compare(lines, client, openai_expected)


@needs_node
@pytest.mark.timeout(300)
@pytest.mark.parametrize("client", ["ai generateText", "ai streamText"])
def test_the_ai_sdk_reads_the_outcome(lines, client):
    """In the AI SDK's own terms."""
    compare(lines, client, ai_expected)


def compare(lines, client, expect) -> None:
    """Fail with all scenarios that the client did not read as expected; `expect` returns None if the client cannot."""
    mode = "unary" if client in {"openai create", "ai generateText"} else "stream"
    cases = [scenario for scenario in SCENARIOS if mode in scenario.modes]
    wrong = []
    for scenario in cases:
        line = lines[client, scenario.name]
        expected = expect(scenario.outcome(mode).plain(), client, line)
        observed = {name: line.get(name) for name in ("choices", "usage", "usages", "error", "crash")}
        if expected is not None and observed != expected:
            wrong.append(f"{scenario.name}:\n  saw  {observed}\n  want {expected}")
    if wrong:
        pytest.fail("\n".join([f"{client}: {len(wrong)} of {len(cases)}:", *wrong]), pytrace=False)


# --- what is expected; values that an outcome leaves open (ids of calls, the rest of a message) are from the line ---


def openai_expected(outcome, client, line) -> dict:
    choices = [openai_choice(*pair, client) for pair in pairs_of(outcome.get("choices", []), line["choices"])]
    return expected_line(outcome, line, choices, outcome.get("usage"))


def openai_choice(choice, observed, client) -> dict:
    names = ("content", "refusal", "reasoning", "function_call", "finish", "logprobs")
    expected = {name: choice.get(name) for name in names} | {"tool_calls": calls(choice, observed)}
    if client != "openai create" and not expected["content"] and not observed.get("content"):
        expected["content"] = observed.get("content")  # deltas cannot distinguish null from ""
    if client == "openai stream helper" and expected["reasoning"]:
        # of fields that the helper does not define, it keeps only the last delta
        is_end = bool(observed.get("reasoning")) and expected["reasoning"].endswith(observed["reasoning"])
        expected["reasoning"] = observed["reasoning"] if is_end else expected["reasoning"]
        if expected["function_call"]:
            expected["reasoning"] = None  # beside a function call it keeps no reasoning
    if client == "openai create, streamed":
        once = [{"id": 1, "name": 1} for _ in expected["tool_calls"]]
        expected["counts"] = {"role": 1, "finish": 1 if expected["finish"] else 0, "calls": once}
    return expected


def ai_expected(outcome, client, line) -> dict | None:
    choices, usage = outcome.get("choices", []), outcome.get("usage")
    if any("custom" in call for choice in choices for call in choice.get("tool_calls", ())):
        return None  # the AI SDK does not support custom tools
    if client == "ai streamText" and len(choices) > 1:
        return None  # the AI SDK reads the deltas of all choices as those of the first one
    if usage is not None:
        prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
        # the AI SDK itself adds them up
        usage = {"input": prompt, "output": completion, "total": prompt + completion, "raw": usage}
    in_band = "error" in outcome and bool(choices)
    ai_choices = [ai_choice(*pair, client, in_band=in_band) for pair in pairs_of(choices[:1], line["choices"])]
    return expected_line(outcome, line, ai_choices, usage)


def ai_choice(choice, observed, client, *, in_band) -> dict:
    raw, refusal = choice.get("finish"), choice.get("refusal") or ""
    finish = (raw or "").replace("_", "-")  # it writes "tool-calls" and "content-filter"
    if raw == "function_call":
        finish = "tool-calls"  # though it leaves out the call
    if in_band:
        finish = "error"  # its finish reason for an answer that ended with an error
    elif refusal:
        finish = "content-filter"  # to the AI SDK, a refusal is a content filter, and its text is content
    expected = {
        "content": (choice.get("content") or "") + refusal,
        "reasoning": choice.get("reasoning") or "",
        "tool_calls": [ai_call(*pair) for pair in pairs_of(calls(choice, observed), observed.get("tool_calls", []))],
        "finish": finish,
        "raw_finish": raw,
    }
    if client == "ai streamText":
        expected["counts"] = {"starts": {call["id"]: 1 for call in expected["tool_calls"]}, "finish": 1}
    return expected


def ai_call(call, observed) -> dict:
    """The AI SDK parses inputs, so equal JSON is equal; an input that a limit cut stays unchanged, and is invalid."""
    meaning = parsed(call["arguments"])
    same = observed.get("arguments") if parsed(observed.get("arguments", "")) == meaning else call["arguments"]
    return call | {"arguments": same, "invalid": "AI_InvalidToolInputError" if isinstance(meaning, str) else None}


def parsed(arguments):
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return arguments


def expected_line(outcome, line, choices, usage) -> dict:
    error = expected_error(outcome["error"], line.get("error") or {}) if "error" in outcome else None
    return {"choices": choices, "usage": usage, "usages": int(usage is not None), "error": error, "crash": None}


def expected_error(error, observed) -> dict:
    """An error in band has no status."""
    message = observed.get("message", "")
    expected = {"status": error["status"], "code": error["code"], "class": observed.get("class")}
    return expected | {"message": message if error["message"] in message else error["message"]}


def calls(choice, observed) -> list[dict]:
    flat = [
        {"id": call.get("id"), "name": call["custom"]["name"], "arguments": call["custom"]["input"]}
        if "custom" in call
        else {"id": None} | {name: value for name, value in call.items() if name != "extra_content"}
        for call in choice.get("tool_calls", ())
    ]
    pairs = pairs_of(flat, observed.get("tool_calls", []))
    return [
        call if call["id"] is not None else call | {"id": seen_call.get("id") or "(any)"} for call, seen_call in pairs
    ]


def pairs_of(items, observed) -> list[tuple]:
    """Return each item with the observed item at its position, or with an empty dict if there is none."""
    return [(item, (observed[number] or {}) if number < len(observed) else {}) for number, item in enumerate(items)]
