"""Child processes that do not outlive the thread that started them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from signal import Signals
from typing import Final

# The last check closes the moment between fork and prctl. A shell's & has SIGINT ignored, and every child would inherit that.
_LAUNCH: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None, use_errno=True).prctl(1, int(sys.argv[2]))
signal.signal(int(sys.argv[2]), signal.SIG_DFL)
if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.execv(sys.argv[3], sys.argv[3:])
"""


def bound(command: Sequence[str | Path], signal: Signals) -> list[str]:
    """For Popen: that command, which gets the signal when the thread that starts it ends, also by kill -9 of this process."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), str(int(signal)), *map(str, command)]
