"""How long to train: each scheduler is a pure function of recorded history."""
