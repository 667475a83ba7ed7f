"""A cache, outside of the checkout, for files that take minutes to make.

The first process that needs them makes them; a folder is complete or does not exist. The cache is in
`$TIDEGATE_TEST_CACHE`, by default `~/.cache/tidegate-tests`. The names of its folders end in a digest of their sources,
so several checkouts can share the cache. Nothing is ever removed from it; the user may remove all of it.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


def cached_folder(name: str, sources: Iterable[Path], make: Callable[[Path], None]) -> Path:
    """Return the folder `name-DIGEST`, and make it if it does not exist; blocks while another process makes it.

    Args:
        name: the first part of the folder's name.
        sources: the files from which it is made; the folder is made again when one of them has changed.
        make: fills the empty folder that it gets; the folder is renamed to its final name after that.
    """
    folder = _root() / f"{name}-{_digest(sources)}"
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            shutil.rmtree(unfinished, ignore_errors=True)  # left by a run that was killed
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
