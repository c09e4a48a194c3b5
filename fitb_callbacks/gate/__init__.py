"""Decide whether a model may be promoted: rules in, verdict out. May import everything but `cli` and `callback`."""
