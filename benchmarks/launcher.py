"""Starts a program, waits for it, and prints its exit code, seconds and peak memory.

Run as ``python -I -S launcher.py WORD...``. A program inherits the peak memory of the one that
started it (``ru_maxrss`` outlives ``execve``, ``getrusage(2)``), so that has to be a small one:
nothing else is imported here, and this is no place for more code.
"""

import os
import sys
import time

channel = int(os.environ.pop("LAUNCHER_REPORT"))
os.set_inheritable(channel, False)
began = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - began
report = f"{os.waitstatus_to_exitcode(status)} {seconds!r} {usage.ru_maxrss}\n"
os.write(channel, report.encode())
