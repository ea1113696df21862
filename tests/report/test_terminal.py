"""Lines on the terminal: KerasTuner's formats, and tables."""

import pytest
import tiny

from manyfit.report import terminal


def test_the_summary_of_a_space_leaves_the_name_out_of_the_settings():
    lines = terminal.space_summary(tiny.space(units=9).space).splitlines()
    assert lines[:3] == ["Search space summary", "Default search space size: 2", "units (Int)"]
    assert lines[4] == "kind (Choice)"
    assert "'max_value': 9" in lines[3] and "'name'" not in lines[3]
    assert terminal.space_summary([]) == "Search space summary\nDefault search space size: 0"


def test_the_start_of_a_trial_has_two_columns_of_eighteen_and_the_name():
    shown = terminal.trial_begin(3, {"units": 48, "rate": 0.000123456789}, {"units": 16})
    assert shown.splitlines() == [
        "",
        "Search: Running Trial #3",
        "",
        "Value             |Best Value So Far |Hyperparameter",
        "48                |16                |units",
        "0.00012346        |?                 |rate",
    ]
    assert shown.endswith("\n")


def test_before_anything_was_best_there_is_a_question_mark():
    assert "48                |?                 |units" in terminal.trial_begin(1, {"units": 48}, None)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "True"),
        (1234567, "1.2346e+06"),
        (-0.5, "-0.5"),
        ("fifteen letters", "fifteen letters"),
        ("sixteen letters!", "sixteen letters..."),
        (None, "None"),
    ],
)
def test_values_are_shortened(value, shown):
    assert f"{shown:<18}|{shown:<18}|x" in terminal.trial_begin(1, {"x": value}, {"x": value})


def test_a_trial_without_values_has_the_default_configuration():
    assert terminal.trial_begin(1, {}, None).splitlines()[-1] == "default configuration"


def test_the_end_of_a_trial_tells_the_score_the_best_and_the_time():
    shown = terminal.trial_end(7, 61.9, objective="val_loss", score=0.25, best=0.125, elapsed_seconds=90061)
    assert shown.splitlines() == [
        "",
        "Trial 7 Complete [00h 01m 01s]",
        "val_loss: 0.25",
        "",
        "Best val_loss So Far: 0.125",
        "Total elapsed time: 1d 01h 01m 01s",
    ]


def test_a_trial_without_a_score_has_no_line_for_it():
    shown = terminal.trial_end(1, 0.0, objective="val_loss", score=None, best=None, elapsed_seconds=0.0)
    assert "val_loss: " not in shown.replace("Best val_loss So Far: None", "")
    assert "Best val_loss So Far: None" in shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "00h 00m 00s"),
        (59.999, "00h 00m 59s"),
        (3600, "01h 00m 00s"),
        (86399, "23h 59m 59s"),
        (86400, "1d 00h 00m 00s"),
        (40 * 86400 + 1, "40d 00h 00m 01s"),
    ],
)
def test_durations(seconds, shown):
    assert terminal.duration(seconds) == shown


def test_tables_put_numbers_to_the_right_and_texts_to_the_left():
    rows = [{"model": "mlp", "loss": 0.123456, "epochs": 7}, {"model": "convolution", "loss": 12345.6, "epochs": 10}]
    assert terminal.table(rows, ["model", "epochs", "loss"]).splitlines() == [
        "model        epochs       loss",
        "mlp               7     0.1235",
        "convolution      10  1.235e+04",
    ]


def test_what_is_missing_or_no_number_is_a_dash():
    rows = [{"a": None, "b": float("nan")}, {"b": 2.0}]
    assert terminal.table(rows, ["a", "b"]).splitlines() == ["a  b", "-  -", "-  2"]


def test_booleans_are_texts():
    assert terminal.table([{"flag": True, "n": 1}], ["flag", "n"]).splitlines() == ["flag  n", "True  1"]


def test_a_table_without_rows_has_its_columns():
    assert terminal.table([], ["a", "bc"]) == "a  bc"
