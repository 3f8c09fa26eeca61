"""Evaluation: what a model thinks of each answer (`score`), and what follows from it (`verdict`)."""
