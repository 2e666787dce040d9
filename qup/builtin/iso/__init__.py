"""Boxes that are ISOs: by path, by address, by a releases API, and the families that are known."""
