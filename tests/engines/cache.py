"""What takes minutes to make, and is kept outside the checkout: made once, by whoever comes first, whole or not at all.

It lies in `$TIDEGATE_TEST_CACHE`, by default `~/.cache/tidegate-tests`, under names that end in a digest of what it was
made of, so that several checkouts can share it. Nothing is ever removed from there; the whole folder may be.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


def kept(name: str, sources: Iterable[Path], make: Callable[[Path], None]) -> Path:
    """The folder `name-DIGEST`; blocks while another process makes it.

    Args:
        name: what it is.
        sources: the files that it is made of; it is made anew when one of them changes.
        make: fills the empty folder that it is given, which is then given its name.
    """
    folder = _root() / f"{name}-{_digest(sources)}"
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder


def _root() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("TIDEGATE_TEST_CACHE") or Path(home) / "tidegate-tests")
    root.mkdir(parents=True, exist_ok=True)
    return root


def _digest(sources: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for source in sources:
        with source.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:12]
