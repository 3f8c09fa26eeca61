"""Example rows: their shapes, their split and their digest (`rows`), and their tokens (`encode`)."""
