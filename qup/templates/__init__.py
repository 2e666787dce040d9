"""Templates: guests that were booted once, stopped, and are restored for every new machine."""
