"""Copying files and trees to, from and between guests, with nothing in them but sh and tar.

Both ends are alike, here and there: a source says what it is and gives it as a stream of bytes (a
file's own, or a tar archive of a tree); a target takes the stream into a draft beside its final
place and moves that there when all of it has arrived.
"""
