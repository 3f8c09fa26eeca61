"""Training: the optimisers (`apollo`, `optimizers`), what is optimised (`objectives`), the corpus, and the run (`fit`)."""
