"""Tiny rules without torch, so that graph tests run real builds in milliseconds."""
