"""Where files of a project lie, and that no other file of the library spells it."""

from __future__ import annotations

import re
from pathlib import Path

import manyfit
from manyfit.store.layout import PredictionFiles, ProjectLayout, state_beside

SOURCE = Path(manyfit.__file__).parent

#: Names of files and folders of a project. A text in a docstring is no path: only whole string literals count.
SPELLED = re.compile(
    r"""["'](manyfit\.(sqlite|lock|holder\.json)|oracle\.json|trial\.json|model\.pickle|checkpoint\.weights\.h5|"""
    r"""labels\.npz|\.state|trial_\*[^"']*)["']|f["']trial_\{"""
)


def test_no_other_file_spells_a_path_of_a_project():
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        lines = path.read_text(encoding="utf-8").splitlines()
        if name != "store/layout.py":
            found += [f"{name}:{number}: {line}" for number, line in enumerate(lines, 1) if SPELLED.search(line)]
    assert not found


def test_files_of_one_trial_do_not_touch_those_of_another(tmp_path):
    layout = ProjectLayout(tmp_path)
    mine = [layout.weights("1", 0), layout.weights("1", 1, phase="confirm"), state_beside(layout.weights("1", 0))]
    others = [layout.weights("11", 0), layout.weights("01", 0)]
    mine[0].parent.mkdir()
    for path in [*mine, *others]:
        path.write_text("")
    assert sorted(layout.of_models("1")) == sorted(mine)


def test_a_worker_finds_the_project_from_a_file_of_weights(tmp_path):
    layout = ProjectLayout(tmp_path)
    assert ProjectLayout.around(layout.weights("3", 0)) == ProjectLayout.around(str(layout.weights("3", 0))) == layout


def test_keras_tuners_files_are_told_apart(tmp_path):
    layout = ProjectLayout(tmp_path)
    for path in (layout.oracle_file, layout.holder, layout.tuner_file("tuner0"), layout.tuner_file("mine")):
        path.write_text("{}")
    assert sorted(layout.tuner_files()) == sorted([layout.tuner_file("tuner0"), layout.tuner_file("mine")])
    for trial_id in ("0", "10"):
        layout.trial_folder(trial_id).mkdir()
        layout.trial_file(trial_id).write_text("{}")
    layout.pickled("10").write_text("")
    assert layout.trial_files() == {trial_id: layout.trial_file(trial_id) for trial_id in ("0", "10")}
    assert layout.all_pickled() == {"10": layout.pickled("10")}


def test_executions_with_predictions_come_in_order(tmp_path):
    files = PredictionFiles(ProjectLayout(tmp_path).predictions)
    files.folder.mkdir()
    for execution in (10, 2, 0):
        files.of("1", execution).write_text("")
    files.of("11", 5).write_text("")
    assert files.executions("1") == [0, 2, 10]
