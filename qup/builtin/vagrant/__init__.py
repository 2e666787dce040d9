"""Boxes by Vagrant's catalog metadata: a JSON document with versions, providers and checksums."""
