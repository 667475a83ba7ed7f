"""openai-python's own generated tests, run against Tidegate in front of a host that always answers.

    pip download --no-deps --no-binary :all: openai && tar xf openai-*.tar.gz
    uv run python tests/conformance/openai_python.py openai-*/

They are no part of the test command: the source distribution is not ours to carry. They were made from a
specification, and two of their values OpenAI's API itself refuses, as we do: a limit of 0 tokens, and `stream_options`
on a request that is no stream. In the copy that runs these two are mended. Deleting a model is left out: there is
nothing to delete.
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
_WANTED = "(create or models) and not aiohttp and not delete"


async def _answer(call: Call) -> None:
    """A text, streamed or whole; one model where the list is asked for."""
    if call.method == "GET":
        await answers(b'{"object":"list","data":[]}')(call)
    elif json.loads(call.body).get("stream"):
        await streams(*text_stream("Hello."))(call)
    else:
        await answers(completion("Hello."))(call)


def _mend(sources: Path) -> None:
    """See the top of this file."""
    path = sources / _FILES[0]
    text = re.sub(r"(max_(?:completion_)?tokens)=0\b", r"\1=1", path.read_text(encoding="utf-8"))
    without_stream = r"(test_method_create_with_all_params_overload_1.*?)stream_options=\{[^}]*\},"
    path.write_text(re.sub(without_stream, r"\1", text, flags=re.DOTALL), encoding="utf-8")


def _models(sources: Path) -> set[str]:
    """The names that the tests ask for."""
    text = "".join((sources / name).read_text(encoding="utf-8") for name in _FILES)
    return set(re.findall(r'model="([^"]+)"', text)) | set(re.findall(r'retrieve\(\s*"([^"]+)"', text))


async def main(sources: Path) -> int:
    """The exit status of pytest."""
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
            command += ["-k", _WANTED, *sys.argv[2:]]
            environment = os.environ | {"TEST_API_BASE_URL": f"{url}/v1"}
            process = await asyncio.create_subprocess_exec(*command, cwd=sources, env=environment)
            return await process.wait()


if __name__ == "__main__":
    with TemporaryDirectory() as place:
        copied = Path(shutil.copytree(sys.argv[1], Path(place) / "openai"))
        _mend(copied)
        sys.exit(asyncio.run(main(copied)))
