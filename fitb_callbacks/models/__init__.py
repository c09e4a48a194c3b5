"""Handle any classifier: load it, read its logits, leave it as it was found. May import `utils`."""
