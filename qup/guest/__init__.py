"""Talking to a guest: the seed it reads, its keys, ssh, readiness."""
