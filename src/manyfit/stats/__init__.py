"""What is real and what is luck: pure functions of arrays."""
