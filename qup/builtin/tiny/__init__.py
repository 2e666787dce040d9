"""Box ``tiny``: a guest of a few megabytes that qup makes itself, without a download site.

A Debian cloud kernel, busybox, dropbear and a handful of modules; see :mod:`.recipe` for how
it is made and ``guest/`` for what runs inside.
"""
