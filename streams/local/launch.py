"""Becomes another program that dies with its parent: `python launch.py PARENT_PID PROGRAM ARGUMENT...`.

A program of its own rather than a hook between fork and exec: Python code in a forked child of a process with threads
may deadlock, and clients of Kafka have threads. Runs by its path, knows nothing but the standard library.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, program = int(sys.argv[1]), sys.argv[2:]
    # Kept across exec. It watches the parent's *thread* that started us, so start servers from a thread that stays.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we watched it
        sys.exit("parent is gone")
    os.execvp(program[0], program)
