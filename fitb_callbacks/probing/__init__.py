"""Probe a model: mask images, find updates, average them into prototypes. Needs neither Lightning nor a platform.

May import `scoring`, `plotting`, `data`, `models` and `utils`.
"""
