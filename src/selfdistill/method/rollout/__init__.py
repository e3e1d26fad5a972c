"""Samples completions: one file per engine, their protocol in ``engine``, their table in ``engines``."""
