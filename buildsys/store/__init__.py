"""`cache/`: objects, records, observations, outputs. The only layer that writes there; importing this package loads nothing."""
