"""Tensors on disk: checkpoints without torch (`checkpoints`), differences (`delta`), models in memory (`models`)."""
