"""make for models: a Buildfile declares behaviours, `build` makes only what is stale."""

__version__ = "0.1.0"
