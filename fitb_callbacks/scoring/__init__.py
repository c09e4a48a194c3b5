"""Score tensors: tensors in, numbers and their meaning out. May import `data`, `models` and `utils`."""
