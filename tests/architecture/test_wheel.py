"""The wheel: what it contains, that it is built the same twice, and that it works without a checkout."""

import os
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_EPOCH = "1767225600"  # any fixed time


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A function that builds the wheel in an empty folder, and returns its path."""

    def build() -> Path:
        folder = tmp_path_factory.mktemp("dist")
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        environment = os.environ | {"SOURCE_DATE_EPOCH": _EPOCH}
        subprocess.run(command, cwd=_ROOT, env=environment, check=True, capture_output=True)
        [wheel] = folder.iterdir()
        return wheel

    return build


@pytest.fixture(scope="module")
def wheel(build):
    return build()


def test_two_builds_are_the_same_bytes(build, wheel):
    assert build().read_bytes() == wheel.read_bytes()


def test_one_package_is_installed(wheel):
    """A top-level `proxy` would collide with the module of PyPI's `proxy.py`.

    A `.pth` file would run at each start of Python.
    """
    names = zipfile.ZipFile(wheel).namelist()
    metadata = f"tidegate-{_version(wheel)}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"tidegate", metadata}
    assert not [name for name in names if name.endswith(".pth")]


def test_types_schemas_and_examples_are_inside(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"tidegate/configs/{path.name}" for path in (_ROOT / "configs").iterdir()}
    assert {"tidegate/py.typed", "tidegate/evals/set.yaml", *configs} <= names


def test_the_metadata_say_where_the_project_is_and_what_can_be_added(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = message_from_string(archive.read(f"tidegate-{_version(wheel)}.dist-info/METADATA").decode())
    assert {url.partition(",")[0] for url in metadata.get_all("Project-URL")} >= {"Homepage", "Issues", "Changelog"}
    assert set(metadata.get_all("Provides-Extra")) == {"vllm", "embedded", "gpu", "jwt"}
    assert any(classifier.startswith("Development Status") for classifier in metadata.get_all("Classifier"))


def test_it_works_without_a_checkout(wheel, tmp_path):
    """Its own example is a config, and the model cards are found."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = (
        "from pathlib import Path; import tidegate; from tidegate.config.cards import known_cards; "
        "print(Path(tidegate.__file__).parent, len(known_cards()) > 10)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    example = str(tmp_path / "tidegate" / "configs" / "tidegate.yaml")
    outputs = [
        subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        for arguments in (["-c", script], ["-m", "tidegate", "check", example])
    ]
    assert outputs[0].stdout == f"{tmp_path / 'tidegate'} True\n"
    assert "engines:" in outputs[1].stdout


def _version(wheel: Path) -> str:
    return wheel.name.split("-")[1]
