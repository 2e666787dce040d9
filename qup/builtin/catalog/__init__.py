"""Boxes by name: where distributions publish their cloud images, as data."""
