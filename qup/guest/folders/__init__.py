"""Folders of this computer in a guest: copied, or mounted.

What qup has copied is noted in the guest itself (:mod:`qup.guest.folders.journal`), so that
the note and the files are always of one disk: a snapshot, a template or a new disk has both or
neither.
"""
