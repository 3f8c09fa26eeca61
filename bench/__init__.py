"""Benchmarks: each module is one command that prints a table of what was measured against its target."""
