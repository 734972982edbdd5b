"""Runs a command that ends with its parent: ``python -m config.child COMMAND …``.

If the supervisor is killed with -9 nobody is left to stop its children; on Linux the kernel then sends them SIGTERM
(prctl(2), PR_SET_PDEATHSIG), which survives the exec below.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent or parent == 1:  # it died before the line above
            sys.exit(1)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - replacing this process is the purpose


if __name__ == "__main__":
    main()
