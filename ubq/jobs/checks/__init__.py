"""Checks of machine, configuration, data and run: what preflight, ``ubq doctor`` and the text UI share."""
