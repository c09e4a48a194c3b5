"""Attach the probe to a Lightning training run: when it runs, on what, and who is told.

May import everything but `cli`, `demo` and `gate`.
"""
