"""Programs for qup's developers."""
