"""The engine kind `command`: what one start runs, needs and reports."""

import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import CapturingLogger

from tidegate.clock import SystemClock
from tidegate.config.engines import CommandConfig
from tidegate.engines.base import PermanentEngineError, Progress
from tidegate.engines.command import CommandEngine
from tidegate.engines.factory import make_control
from tidegate.engines.gpus.allocator import GpuAllocator, GpuNeeds
from tidegate.engines.gpus.devices import Gpu
from tidegate.engines.gpus.placement import ASLEEP_BYTES
from tidegate.engines.process.sockets import free_port
from tidegate.engines.supervision.settings import Settings
from tidegate.engines.supervision.supervisor import Supervisor
from tidegate.transport.wire import Timeouts, Transport

GPUS = [Gpu(index=index, total_bytes=80 << 30) for index in range(2)]


def engine(*, inherited=None, **keys):
    keys = {"cmd": (sys.executable, "--port", "${PORT}")} | keys
    return CommandEngine("e", CommandConfig(**keys), GPUS, environment=inherited or {}, find_port=lambda: 4711)


def command(**keys):
    return engine(**keys).command("/run/e.sock", "sk-key")


def test_the_names_are_replaced_in_every_part_of_the_command():
    built = command(
        cmd=(sys.executable, "--at=127.0.0.1:${PORT}", "--as", "${NAME}", "${MODEL}", "${GPUS}"),
        cmd_stop="docker stop ${NAME} ${PID}",
        environment={"KEY": "${API_KEY}", "PLAIN": "$HOME"},
        model="org/m",
        gpus=(1, 0),
    )
    assert built.argv == [sys.executable, "--at=127.0.0.1:4711", "--as", "e", "org/m", "1,0"]
    assert built.stop == ["docker", "stop", "e", "${PID}"]
    assert built.environment["KEY"] == "sk-key"
    assert built.environment["PLAIN"] == "$HOME"
    assert built.port == 4711


def test_replicas_have_the_engines_name_and_a_number():
    for name, number in (("e", "1"), ("e:2", "2")):
        config = CommandConfig(cmd=(sys.executable, "${PORT}", "${NAME}", "${REPLICA}"))
        built = CommandEngine(name, config, find_port=lambda: 4711).command("/run/e.sock", "sk-key")
        assert built.argv[2:] == ["e", number]


def test_a_command_with_a_socket_has_no_port():
    built = command(cmd=(sys.executable, "--host", "${SOCKET}"))
    assert (built.argv[2], built.port) == ("/run/e.sock", None)


def test_a_leading_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    program = tmp_path / "serve"
    program.touch(mode=0o755)
    built = command(cmd="~/serve ${MODEL} a~/b ${PORT}", model="~/m.gguf")
    assert built.argv == [str(program), f"{tmp_path}/m.gguf", "a~/b", "4711"]


def test_the_process_sees_only_the_gpus_of_its_config_unless_its_environment_sets_others():
    """If Tidegate itself may see only some of the GPUs, the numbers count those."""
    assert command(gpus=(1,)).environment == {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    built = command(gpus=(1,), inherited={"CUDA_VISIBLE_DEVICES": "4,GPU-7"}, cmd_stop="x ${GPUS}")
    assert (built.environment["CUDA_VISIBLE_DEVICES"], built.stop) == ("GPU-7", ["x", "GPU-7"])
    built = command(gpus=(1,), environment={"CUDA_VISIBLE_DEVICES": "3"})
    assert built.environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert command().environment == {}


def test_a_missing_program_is_reported_before_the_start():
    """The program is searched for in the PATH of the engine's environment, if it sets one."""
    with pytest.raises(
        PermanentEngineError, match="there is no program nowhere-serve: install it, or mend the key cmd"
    ):
        command(cmd="nowhere-serve ${PORT}")
    with pytest.raises(PermanentEngineError, match="no program"):
        engine(cmd="nowhere-serve ${PORT}").needs()
    with pytest.raises(PermanentEngineError, match="no program sh"):
        command(cmd="sh ${PORT}", environment={"PATH": "/nowhere"})


def test_the_gpu_needs_are_the_share_of_each_named_gpu():
    assert engine().needs() == GpuNeeds()
    assert engine(gpus=()).needs() == GpuNeeds()
    built = engine(gpus=(0, 1), gpu_share=0.5, pinned=True)
    assert built.needs() == GpuNeeds(awake={0: 0.5, 1: 0.5}, is_pinned=True)
    built = engine(gpus=(0,), sleep_path="/sleep", wake_path="/wake_up")
    assert built.needs() == GpuNeeds(awake={0: 1.0}, asleep={0: ASLEEP_BYTES / (80 << 30)})


def test_a_gpu_that_the_machine_lacks_is_an_error():
    with pytest.raises(PermanentEngineError, match="there is no GPU 7: the machine has 0, 1"):
        engine(gpus=(7,)).needs()


def test_an_engine_with_a_sleep_path_can_sleep():
    assert engine().sleep_level is None
    built = engine(sleep_path="/s", wake_path="/w")
    assert (built.sleep_level, built.sleep_paths) == (1, ("/s", "/w"))


def test_only_a_llama_server_gets_only_streaming_requests():
    assert engine(dialect="llamacpp").always_streams
    assert not engine(dialect="sglang").always_streams


def test_the_limit_of_a_start_depends_on_the_size_of_the_model(tmp_path):
    """A model that is not a file on this machine may have to be downloaded."""
    file = tmp_path / "m.gguf"
    file.write_bytes(b"x" * 1_000_000)
    assert engine(model=str(file)).start_timeout_s == 600.02
    assert engine(model=str(file)).model_bytes() == 1_000_000
    assert engine(model="org/m").start_timeout_s == 7800
    assert engine(model="x\0y").model_bytes() == 0
    assert engine(start_timeout_s=5).start_timeout_s == 5
    assert engine(stop_timeout_s=7).stop_s == 7


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Loading 3 of 9", "Loading 3 of 9"),
        ("\x1b[1;32mINFO\x1b[0m up\x07", "INFO up"),
        ("x" * 5000, "x" * 200),
    ],
)
def test_the_last_line_is_the_progress(line, shown):
    assert engine().progress(line) == Progress("starting the model", line=shown)


@given(st.text())
def test_a_progress_line_has_no_control_characters(line):
    progress = engine().progress(line)
    assert progress is None or (progress.line.isprintable() and 0 < len(progress.line) <= 200)


def test_keys_are_secrets_to_be_masked_in_the_output():
    """The secrets are the key of this start, and variables whose names end in words such as TOKEN."""
    built = command(environment={"HF_TOKEN": "hf_0123456789", "MODE": "production", "API_KEY": "short"})
    assert built.secrets == ["sk-key", "hf_0123456789"]


def test_a_failed_start_is_explained_by_its_error_lines():
    """The last line alone would not do: Docker's last line is about its help."""
    lines = ["pulling", "docker: Cannot connect to the Docker daemon.", "Run 'docker run --help' for more information"]
    assert str(engine().explain(lines)) == "it ended: docker: Cannot connect to the Docker daemon."
    lines = [f"\x1b[31merror {number}" for number in range(9)]
    assert str(engine().explain(lines)) == "it ended: error 6; error 7; error 8"
    assert engine().explain(lines).message == "it ended"
    assert engine().explain(["going down"]) is None


def test_lines_of_a_server_that_has_answered_requests_are_not_quoted():
    """The lines may contain texts of requests."""
    assert engine().explain(["error in 'my secret prompt'"], has_run=True) is None


async def test_a_start_whose_port_was_taken_fails_and_the_next_one_has_another_port():
    """The reason is quoted from the server's output."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        ports = iter([taken.getsockname()[1], free_port()])
        serve = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "${PORT}")
        config = CommandConfig(cmd=serve, health_path="/", metrics_path=None)
        kind = CommandEngine("e", config, find_port=ports.__next__)
        seen, allocator, log = [], GpuAllocator(), CapturingLogger()
        settings = Settings(backoff_s=0.01, poll_s=0.01, queue_timeout_s=200)
        supervisor = Supervisor(
            "e", kind, settings, allocator=allocator, clock=SystemClock(), log=log, on_change=seen.append
        )
        allocator.register(supervisor, kind.needs())
        timeouts = Timeouts(connect_s=60, first_byte_s=60, answer_s=60, idle_s=60)
        root, models = (Transport(f"http://127.0.0.1:1{path}", timeouts=timeouts) for path in ("", "/v1"))
        supervisor.open(make_control("e", models, root, "/", None))
        (await supervisor.acquire_slot(can_wait=True))()
        assert [status.state for status in seen if not status.progress][:5] == [
            "starting",
            "failed",
            "starting",
            "ready",
        ]
        assert "Address already in use" in next(status for status in seen if status.state == "failed").reason
        await supervisor.close()
        for transport in (root, models):
            await transport.close()
