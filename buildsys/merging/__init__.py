"""Merging: the methods (`methods`), their options (`options`), and the pass over a model's tensors (`stream`)."""
