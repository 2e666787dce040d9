"""Talking to QEMU: its command line, its monitor, its images, its life."""
