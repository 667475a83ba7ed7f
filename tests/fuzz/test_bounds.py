"""Memory is bounded, whatever a host sends: 100 MB of everything that might be kept, in a separate process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_MAX_GROWTH_MB = 64
_TOO_LONG_EVENT = "upstream_failed: The upstream sent an event of more than 8388608 bytes."
_NOTHING = "upstream_failed: The upstream's answer holds no choices."
_NO_END = "upstream_disconnected: The upstream's answer ended before it was complete."
_TOO_MUCH = "upstream_failed: The upstream's answer holds more than can be kept."
_ENDS = {
    "an event without an end": _TOO_LONG_EVENT,
    "a line of no field": _TOO_LONG_EVENT,
    "lines without a blank one": _TOO_LONG_EVENT,
    "comments without a blank line": _TOO_LONG_EVENT,
    "comments": _NOTHING,
    "blank lines": _NOTHING,
    "small events": _NO_END,
    "thinking": _NO_END,
    "thinking between tags": _NO_END,
    "white space where a tag may begin": _NO_END,
    "a call in markup": _NO_END,
    "a call in markup, in small pieces": _NO_END,
    "arguments of a call": _TOO_MUCH,
    "arguments of a call, in small pieces": _TOO_MUCH,
    "a name that does not come": _TOO_MUCH,
    "small values": _TOO_LONG_EVENT,
    "annotations": _TOO_MUCH,
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_memory_stays_bounded_in_every_flood():
    """Each flood ends with the right error; data that may continue without end is not kept."""
    process = subprocess.run([sys.executable, "-m", "tests.fuzz.floods"], capture_output=True, check=True, text=True)
    floods = [json.loads(line) for line in process.stdout.splitlines()]
    assert {name: end for name, end, _ in floods} == _ENDS
    assert max(grown_mb for _, _, grown_mb in floods) < _MAX_GROWTH_MB
