"""Measurements of speed, one file each; every ratio is of figures taken in turn within one process."""
