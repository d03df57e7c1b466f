"""An independent implementation of the integer contract in plain Python integers.

Written from docs/NUMERICS.md, docs/FORMATS.md and docs/MODEL.md alone. `python -m tests.oracle` writes tests/vectors.
"""
