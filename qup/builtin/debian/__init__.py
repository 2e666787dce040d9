"""How a Debian for machines is made from the computer's own apt sources."""
