"""Bridges to other tools, each an optional extra that is loaded only where it is used."""
