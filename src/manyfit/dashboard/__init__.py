"""Projects in a browser, while they are searched: the report's pages on loopback, and requests to a search.

It reads snapshots and writes requests, one file each (`manyfit.store.requests`); a project's database keeps its one
writer. Neither Keras nor JAX is loaded. `guard.py` says who may see what, and why.
"""
