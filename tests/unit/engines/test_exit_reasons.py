"""Why engines that had been ready have ended; `tests/data/engines/ends.yaml` has recorded output of vLLM, verbatim."""

import signal
from pathlib import Path

import pytest
import yaml

from tidegate.engines.exit_reasons import EXTERNAL_SIGNALS, describe_signal, explain_end, signal_of
from tidegate.engines.output import explain

ENDS = yaml.safe_load((Path(__file__).parents[2] / "data" / "engines" / "ends.yaml").read_text(encoding="utf-8"))
SECRET = "the caller's text: CUDA out of memory, No space left on device, died unexpectedly"
# lines that vLLM logs about requests that it refuses, or that fail
OF_REQUESTS = [
    f"(APIServer pid=1) ERROR 11-30 19:02:21 [serving.py:929] ValueError: {SECRET}",
    f"(APIServer pid=1) ERROR 11-30 19:02:21 [serving.py:929] torch.OutOfMemoryError: {SECRET}",
    f"(APIServer pid=1) WARNING 11-30 19:02:21 [hf.py:839] Chat template rejected the request: {SECRET}",
    f"(APIServer pid=1) ERROR 11-30 19:02:21 [serving.py:929]   Value error, {SECRET} [type=value_error, input_value=A",
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end["name"])
@pytest.mark.parametrize("earlier", [[], OF_REQUESTS], ids=["alone", "after errors of requests"])
def test_each_recorded_end_of_vllm_is_explained(end, earlier):
    number = signal_of(end["status"])
    error = explain([*earlier, *end["lines"]], has_run=True)
    expected = describe_signal(number) if number is not None and error is None else str(error)
    assert end["told"].removeprefix("it ") in expected
    assert "caller" not in expected


@pytest.mark.parametrize("earlier", [[], OF_REQUESTS])
def test_errors_of_requests_are_no_reason_of_an_end(earlier):
    assert explain(earlier, has_run=True) is None


AT = "ERROR 11-30 19:02:21"
WORKER = f"(EngineCore pid=7) {AT} [multiproc_executor.py:283] Worker proc VllmWorker-0 died unexpectedly, shutting"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"(Worker pid=7) {AT} [x.py:1] torch.OutOfMemoryError: CUDA out of memory.", "memory is full"),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", "a kernel failed on the GPU"),
        (f"(EngineCore pid=7) {AT} [core.py:1] TimeoutError: RPC call to execute_model timed out.", "in time"),
        ("[rank0]:[E1130 ProcessGroupNCCL.cpp:632] Watchdog caught collective operation timeout", "NCCL"),
        ("Fatal Python error: Aborted", "one of its processes crashed (SIGABRT)"),
        (f"(APIServer pid=7) {AT} [core_client.py:562] Engine core proc EngineCore_0 died unexpectedly", "by a signal"),
        (WORKER, "one of its workers ended unexpectedly"),
        (f"(APIServer pid=7) {AT} [x.py:1] vllm.v1.engine.exceptions.EngineDeadError: EngineCore", "its core failed"),
    ],
)
def test_other_lines_before_an_end_are_explained(line, expected):
    assert expected in str(explain([*OF_REQUESTS, line], has_run=True))


def test_a_failed_core_is_explained_by_the_class_of_the_exception_and_not_its_text():
    """The text of the exception may quote a request: a grammar that the core cannot use comes from the caller."""
    lines = [
        "(EngineCore pid=7) ERROR 11-25 01:44:57 [core.py:1510] EngineCore encountered a fatal error.",
        "(EngineCore pid=7) ERROR 11-25 01:44:57 [core.py:1510] Traceback (most recent call last):",
        f"(EngineCore pid=7) ERROR 11-25 01:44:57 [core.py:1510] xgrammar.GrammarError: {SECRET[:20]}",
    ]
    expected = "its core failed (xgrammar.GrammarError); see `tidegate engines logs`"
    assert str(explain(lines, has_run=True)) == expected


def test_causes_that_only_a_start_can_have_do_not_explain_a_later_end():
    line = "ValueError: LoRA rank 64 is greater than max_lora_rank 16."
    assert "rank 64" in str(explain([line]))
    assert explain([line], has_run=True) is None


@pytest.mark.parametrize(
    ("status", "number"),
    [
        (-9, signal.SIGKILL),
        (137, signal.SIGKILL),
        (-11, signal.SIGSEGV),
        (143, signal.SIGTERM),
        (0, None),
        (3, None),
        (128, None),
        (255, None),
    ],
)
def test_an_exit_status_gives_the_signal(status, number):
    assert signal_of(status) == number


def test_each_signal_has_its_description():
    assert describe_signal(signal.SIGKILL).startswith("it was killed (SIGKILL): by another program, or by the kernel")
    assert describe_signal(signal.SIGTERM, "its core") == "its core was told to end by another program (SIGTERM)"
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS):
        assert describe_signal(number).startswith(f"it crashed ({number.name})")
        assert number not in EXTERNAL_SIGNALS


def test_without_output_there_is_no_reason():
    assert explain_end([]) is None
