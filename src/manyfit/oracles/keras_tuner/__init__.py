"""What an oracle has because KerasTuner's has it: names that programs read and override, its files, its lock.

`style.KerasTunerOracle` lists what may be overridden. `metrics_tracking.py` stands beside `trial.py`, which uses it.
"""
