"""A folder with all that a Raspberry Pi needs."""
