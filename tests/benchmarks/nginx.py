"""The command lines of nginx as the mock upstream (with Lua), and as the relay that shows the lowest possible cost."""

import os
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
# /usr/sbin is not on the PATH of all users
_NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
_MODULES = ("ndk_http_module.so", "ngx_http_lua_module.so")
_INSTALL = """\
The cost measurement needs nginx with Lua, and wrk: {missing} not found.
On Debian:  apt-get install nginx-extras libnginx-mod-http-lua wrk
"""


def missing_tools() -> str:
    """A message that says which packages to install; empty if nothing is missing."""
    found = {"nginx": _NGINX, "wrk": shutil.which("wrk")}
    missing = [tool for tool, path in found.items() if path is None]
    if _NGINX is not None and not all(module.exists() for module in _modules()):
        missing.append("nginx's Lua module")
    return _INSTALL.format(missing=", ".join(missing)) if missing else ""


def command(template: str, directory: Path, *, port: int, upstream: int = 0) -> list[str]:
    """Fill in the config file `template`, write it to `directory`, and return the command line that uses it."""
    words = {
        "PROLOGUE": "\n".join(_prologue()),
        "DIRECTORY": str(directory),
        "HERE": str(HERE),
        "PORT": str(port),
        "UPSTREAM": str(upstream),
    }
    text = re.sub("@([A-Z]+)@", lambda match: words[match[1]], (HERE / template).read_text())
    file = directory / template
    file.write_text(text)
    return [str(_NGINX), "-e", str(directory / "start.log"), "-p", str(directory), "-c", str(file)]


def _prologue() -> list[str]:
    modules = [f"load_module {module};" for module in _modules()]
    return ["user root;", *modules] if os.geteuid() == 0 else modules  # otherwise the workers change to another user


def _modules() -> list[Path]:
    built = subprocess.run([str(_NGINX), "-V"], capture_output=True, text=True, check=True).stderr
    found = re.search(r"--modules-path=(\S+)", built)
    folder = Path(found[1]) if found else Path("modules")
    return [folder / name for name in _MODULES]
