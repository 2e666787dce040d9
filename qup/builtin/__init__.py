"""Plugins that are always present. They import qup.api only, as everybody does."""
