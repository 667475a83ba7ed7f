"""Every parser that Tidegate may choose exists in vLLM; no engine is started."""

import json
import subprocess

from tidegate.engines.vllm import families

_LISTED = """
import json
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
print(json.dumps([sorted(each.list_registered()) for each in (ReasoningParserManager, ToolParserManager)]))
"""


def test_vllm_has_every_parser_that_may_be_chosen(vllm_python):
    done = subprocess.run([vllm_python, "-c", _LISTED], capture_output=True, text=True, check=True)
    reasoning, tools = json.loads(done.stdout.splitlines()[-1])
    assert families.reasoning_parsers() - set(reasoning) == set()
    assert families.tool_call_parsers() - set(tools) == set()
