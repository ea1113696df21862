"""Words that every part shares: records, objective, metrics history, seeds, errors.

Imports the standard library and NumPy only.
"""
