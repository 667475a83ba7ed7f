"""What hosts send, read by openai-node in three ways and the AI SDK in two: nothing is lost or doubled, none crashes.

tests/node/clients.mjs tells what each client made of each chat scenario; here it is held against the outcomes.
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
    """The clients as locked, in tests/node/node_modules; fetched anew only after the lock has changed."""
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
    """Every line that the clients told, by client and scenario."""
    dumps = [scenario.dump() for scenario in SCENARIOS]
    given = {"base_url": f"{stage.url}/v1", "api_key": "unused", "scenarios": dumps}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
    node = await asyncio.create_subprocess_exec("node", NODE / "clients.mjs", **pipes, env=proxy.environment())
    out, err = await node.communicate(json.dumps(given).encode())
    assert node.returncode == 0, err.decode()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line for line in lines if "client" not in line] == [], "thrown where nobody awaits it"
    return {(line["client"], line["scenario"]): line for line in lines}


def test_the_lock_names_no_address():
    """Whoever installs uses a registry of their own; tests/node/.npmrc leaves it out, funding pages go by hand."""
    assert "://" not in LOCK.read_text()


def test_everything_in_the_lock_has_a_hash():
    packages = json.loads(LOCK.read_text())["packages"]
    assert [name for name, package in packages.items() if name and "integrity" not in package] == []


@needs_node
@pytest.mark.timeout(300)  # npm may have to fetch
@pytest.mark.parametrize("client", ["openai create", "openai create, streamed", "openai stream helper"])
def test_openai_node_tells_the_outcome(lines, client):
    """In every field; in a stream each role, finish and usage comes once, and so do each call's id and name."""
    compare(lines, client, openai_wanted)


@needs_node
@pytest.mark.timeout(300)
@pytest.mark.parametrize("client", ["ai generateText", "ai streamText"])
def test_the_ai_sdk_tells_the_outcome(lines, client):
    """In its own words."""
    compare(lines, client, ai_wanted)


def compare(lines, client, wanted) -> None:
    """Fail with all that the client did not tell as the outcomes say; `wanted` is None where it cannot tell."""
    mode = "unary" if client in {"openai create", "ai generateText"} else "stream"
    cases = [scenario for scenario in SCENARIOS if mode in scenario.modes]
    wrong = []
    for scenario in cases:
        line = lines[client, scenario.name]
        want = wanted(scenario.outcome(mode).plain(), client, line)
        seen = {name: line.get(name) for name in ("choices", "usage", "usages", "error", "crash")}
        if want is not None and seen != want:
            wrong.append(f"{scenario.name}:\n  saw  {seen}\n  want {want}")
    if wrong:
        pytest.fail("\n".join([f"{client}: {len(wrong)} of {len(cases)}:", *wrong]), pytrace=False)


# --- what is wanted; what an outcome leaves open is taken from the line: ids of calls, the rest of a message -------


def openai_wanted(outcome, client, line) -> dict:
    choices = [openai_choice(*pair, client) for pair in beside(outcome.get("choices", []), line["choices"])]
    return told(outcome, line, choices, outcome.get("usage"))


def openai_choice(choice, seen, client) -> dict:
    names = ("content", "refusal", "reasoning", "function_call", "finish", "logprobs")
    want = {name: choice.get(name) for name in names} | {"tool_calls": calls(choice, seen)}
    if client != "openai create" and not want["content"] and not seen.get("content"):
        want["content"] = seen.get("content")  # deltas cannot tell null from ""
    if client == "openai stream helper" and want["reasoning"]:
        # of fields that it does not know, it keeps the last delta alone
        is_end = bool(seen.get("reasoning")) and want["reasoning"].endswith(seen["reasoning"])
        want["reasoning"] = seen["reasoning"] if is_end else want["reasoning"]
        if want["function_call"]:
            want["reasoning"] = None  # beside one it keeps none
    if client == "openai create, streamed":
        once = [{"id": 1, "name": 1} for _ in want["tool_calls"]]
        want["counts"] = {"role": 1, "finish": 1 if want["finish"] else 0, "calls": once}
    return want


def ai_wanted(outcome, client, line) -> dict | None:
    choices, usage = outcome.get("choices", []), outcome.get("usage")
    if any("custom" in call for choice in choices for call in choice.get("tool_calls", ())):
        return None  # it knows no custom tools
    if client == "ai streamText" and len(choices) > 1:
        return None  # it takes the deltas of all choices for the first one's
    if usage is not None:
        given, made = usage["prompt_tokens"], usage["completion_tokens"]
        usage = {"input": given, "output": made, "total": given + made, "raw": usage}  # it adds them up itself
    in_band = "error" in outcome and bool(choices)
    wanted = [ai_choice(*pair, client, in_band=in_band) for pair in beside(choices[:1], line["choices"])]
    return told(outcome, line, wanted, usage)


def ai_choice(choice, seen, client, *, in_band) -> dict:
    raw, refusal = choice.get("finish"), choice.get("refusal") or ""
    finish = (raw or "").replace("_", "-")  # "tool-calls" and "content-filter" are its spellings
    if raw == "function_call":
        finish = "tool-calls"  # but the call it leaves out
    if in_band:
        finish = "error"  # it says so of what ended with one
    elif refusal:
        finish = "content-filter"  # a refusal is one to it, and text
    want = {
        "content": (choice.get("content") or "") + refusal,
        "reasoning": choice.get("reasoning") or "",
        "tool_calls": [ai_call(*pair) for pair in beside(calls(choice, seen), seen.get("tool_calls", []))],
        "finish": finish,
        "raw_finish": raw,
    }
    if client == "ai streamText":
        want["counts"] = {"starts": {call["id"]: 1 for call in want["tool_calls"]}, "finish": 1}
    return want


def ai_call(call, seen) -> dict:
    """It parses inputs, so what means the same is the same; what a limit cut is left as it is, and called invalid."""
    meaning = parsed(call["arguments"])
    same = seen.get("arguments") if parsed(seen.get("arguments", "")) == meaning else call["arguments"]
    return call | {"arguments": same, "invalid": "AI_InvalidToolInputError" if isinstance(meaning, str) else None}


def parsed(arguments):
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return arguments


def told(outcome, line, choices, usage) -> dict:
    error = wanted_error(outcome["error"], line.get("error") or {}) if "error" in outcome else None
    return {"choices": choices, "usage": usage, "usages": int(usage is not None), "error": error, "crash": None}


def wanted_error(error, seen) -> dict:
    """In band it has no status."""
    message = seen.get("message", "")
    want = {"status": error["status"], "code": error["code"], "class": seen.get("class")}
    return want | {"message": message if error["message"] in message else error["message"]}


def calls(choice, seen) -> list[dict]:
    flat = [
        {"id": call.get("id"), "name": call["custom"]["name"], "arguments": call["custom"]["input"]}
        if "custom" in call
        else {"id": None} | {name: value for name, value in call.items() if name != "extra_content"}
        for call in choice.get("tool_calls", ())
    ]
    pairs = beside(flat, seen.get("tool_calls", []))
    return [
        call if call["id"] is not None else call | {"id": seen_call.get("id") or "(any)"} for call, seen_call in pairs
    ]


def beside(wanted, seen) -> list[tuple]:
    """Each with what was seen in its place, which may be nothing."""
    return [(one, (seen[number] or {}) if number < len(seen) else {}) for number, one in enumerate(wanted)]
