"""Small helpers that know nothing of images or models. May import nothing else of this package."""
