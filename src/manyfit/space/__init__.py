"""What may be tried: hyperparameters, conditions, encoding to the unit cube, discovery."""
