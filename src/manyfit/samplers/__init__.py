"""What to try: each sampler is a pure function of recorded history, one algorithm per file."""
