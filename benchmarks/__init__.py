"""What qup costs, measured on this computer beside what it is built on.

``python -m benchmarks`` (``make bench``) runs whole processes, each command in turn within
every round, so that a busy host slows all of them alike. ``RESULTS.md`` has the newest figures.
"""
