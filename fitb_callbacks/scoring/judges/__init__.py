"""Classify prototypes in the model's place: one module per judge, one base class."""
