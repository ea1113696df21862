"""Trainers: they turn plans (executions to train) into results."""
