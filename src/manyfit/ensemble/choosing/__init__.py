"""Which ensemble, and whether to have one at all: the methods, their cross-fitting, the choice, the temperature."""
