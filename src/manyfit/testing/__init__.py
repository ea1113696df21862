"""Honest fakes and conformance suites for authors of new parts."""
