"""Becomes the command it is given, having first tied its life to its parent's.

A preexec_fn would do the same but warns about forking under threads since Python 3.12, and our warnings are errors.
Run as `python -I -S launch.py PARENT_PID SIGNAL USER COMMAND...`; USER "-" keeps the current one. The user changes
before the signal is asked for, because the kernel forgets the request when a process changes its user.
"""

import ctypes
import os
import pwd
import sys

PR_SET_PDEATHSIG = 1


def become(user: str) -> None:
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def die_with(parent: int, signal: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was asked
        sys.exit(1)


def main() -> None:
    parent, signal, user, *command = sys.argv[1:]
    if user != "-":
        become(user)
    die_with(int(parent), int(signal))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
