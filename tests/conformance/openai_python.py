"""Runs openai-python's own generated tests against Tidegate in front of a host that always answers.

    pip download --no-deps --no-binary :all: openai && tar xf openai-*.tar.gz
    uv run python tests/conformance/openai_python.py openai-*/

They are not part of the test command, as the source distribution is not part of this repository. They are generated
from a specification, and OpenAI's API itself refuses two of their values, as Tidegate does: a limit of 0 tokens, and
`stream_options` on a request that is not a stream. These two are corrected in the copy that runs. The test that deletes
a model is left out, as Tidegate cannot delete models.
"""

import asyncio
import json
import os
import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fakes import proxy
from tests.fakes.upstream import Call, ScenarioUpstream, answers, streams
from tests.fakes.wire import completion, text_stream

_FILES = ("tests/api_resources/chat/test_completions.py", "tests/api_resources/test_models.py")
_SELECTED = "(create or models) and not aiohttp and not delete"


async def _answer(call: Call) -> None:
    """Answer with a text, streamed or unary; answer a request for the list of models with an empty one."""
    if call.method == "GET":
        await answers(b'{"object":"list","data":[]}')(call)
    elif json.loads(call.body).get("stream"):
        await streams(*text_stream("Hello."))(call)
    else:
        await answers(completion("Hello."))(call)


def _correct(sources: Path) -> None:
    """Correct the two values that OpenAI's API refuses (see the docstring of this file)."""
    path = sources / _FILES[0]
    text = re.sub(r"(max_(?:completion_)?tokens)=0\b", r"\1=1", path.read_text(encoding="utf-8"))
    without_stream = r"(test_method_create_with_all_params_overload_1.*?)stream_options=\{[^}]*\},"
    path.write_text(re.sub(without_stream, r"\1", text, flags=re.DOTALL), encoding="utf-8")


def _models(sources: Path) -> set[str]:
    """Return the names of the models that the tests use."""
    text = "".join((sources / name).read_text(encoding="utf-8") for name in _FILES)
    return set(re.findall(r'model="([^"]+)"', text)) | set(re.findall(r'retrieve\(\s*"([^"]+)"', text))


async def main(sources: Path) -> int:
    """Return the exit status of pytest."""
    upstream = ScenarioUpstream()
    upstream.play(_answer)
    async with upstream.running():
        target = {"targets": [{"upstream": "openai", "model": "there"}]}
        config = {
            "upstreams": {"openai": {"base_url": upstream.url, "dialect": "openai"}},
            "models": dict.fromkeys(_models(sources), target),
        }
        async with proxy.serving(json.dumps(config)) as url:
            command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-o", "filterwarnings=", "-q", *_FILES]
            command += ["-k", _SELECTED, *sys.argv[2:]]
            environment = os.environ | {"TEST_API_BASE_URL": f"{url}/v1"}
            process = await asyncio.create_subprocess_exec(*command, cwd=sources, env=environment)
            return await process.wait()


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        copied = Path(shutil.copytree(sys.argv[1], Path(folder) / "openai"))
        _correct(copied)
        sys.exit(asyncio.run(main(copied)))
