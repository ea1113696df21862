"""The memory of a project: one SQLite file, weights beside it, one writing process at a time."""

from manyfit.store.project import ProjectStore as ProjectStore
