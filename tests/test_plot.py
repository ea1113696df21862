"""`kt.plot`: figures of a tuner, an opened project or a folder; as Vega-Lite, as pictures, as files."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import drawn_projects
import pytest
import tiny

from manyfit.core.errors import ProjectError, UsageError

pytest.importorskip("vl_convert", reason="the extra manyfit[report] is not installed")

NAMED = {"slice": ("rate",), "contour": ("rate", "units")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    combined = {"method": "power", "metric": "score", "weights": {"trial 03": 0.75, "trial 07": 0.25}}
    drawn = drawn_projects.Drawn(trials=30, failed=1, facts={"ensemble": combined})
    return drawn_projects.write(tmp_path_factory.mktemp("plot") / "one", drawn)


@pytest.mark.parametrize("name", [name for name in kt.plot.__all__ if name not in ("Figure", "pareto")])
def test_each_is_live_and_a_picture(name, folder):
    figure = getattr(kt.plot, name)(folder, *NAMED.get(name, ()))
    bundle = figure._repr_mimebundle_()
    assert bundle["application/vnd.vegalite.v5+json"] == figure.spec and figure.spec["layer"]
    assert bundle["image/svg+xml"].startswith("<svg") and bundle["image/svg+xml"].count("<path") > 2
    assert bundle["text/plain"] == repr(figure) == f"<Figure: {figure.spec['description']}>"


def test_files(folder, tmp_path):
    figure = kt.plot.history(kt.open_project(folder), over="epochs")
    assert figure.save(tmp_path / "made" / "x.svg").read_text(encoding="utf-8").startswith("<svg")
    assert figure.save(tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    text = figure.save(tmp_path / "x.html").read_text(encoding="utf-8")
    assert "vegaEmbed" in text and '<script src="http' not in text
    assert {param["name"]: param["value"] for param in figure.spec["params"]} == {"picked": "", "over": "epochs"}


def test_a_tuner_is_a_source(tmp_path):
    tuner = tiny.numbers(
        lambda trial: {"score": trial.hyperparameters["units"]},
        objective=kt.Objective("score", "max"), max_trials=3, directory=tmp_path, project_name="one", seed=0,
    )  # fmt: skip
    tuner.search(verbose=0)
    rows = kt.plot.history(tuner).spec["datasets"]["trials"]
    assert [row["score"] for row in rows] == [trial.score for trial in tuner.oracle.trials.values()]


def test_several_objectives(tmp_path):
    objective = (
        'ParetoObjective: [Objective(name="val_score", direction="max"), Objective(name="loss", direction="min")]'
    )
    drawn = drawn_projects.Drawn(trials=4, facts={"search": {"objective": objective}})
    seen = kt.open_project(drawn_projects.write(tmp_path / "one", drawn))
    values = [(0.9, 3.0), (0.8, 1.0), (0.7, 2.0), (0.9, 4.0)]  # the first two are beaten by none
    for trial, (score, loss) in zip(seen.trials, values, strict=True):
        for run in trial.runs:
            run.outcome["metrics"].update(val_score=score, loss=loss)
    rows = kt.plot.pareto(seen).spec["datasets"]["pareto"]
    assert [row["front"] for row in rows] == [True, True, False, False]


def test_what_cannot_be_drawn(folder, tmp_path):
    with pytest.raises(UsageError, match=r"plot\.slice: got 'rat'\. Allowed: rate, units, kind, idle\. Name one"):
        kt.plot.slice(folder, "rat")
    with pytest.raises(UsageError, match=r"plot\(source\): got int\. Allowed: a tuner"):
        kt.plot.history(3)
    with pytest.raises(UsageError, match=r"plot\.history\(over\): got 'hours'\. Allowed: trials, seconds, epochs"):
        kt.plot.history(folder, over="hours")
    with pytest.raises(UsageError, match=r"plot\.pareto: .* Allowed: a search for several objectives"):
        kt.plot.pareto(folder)
    with pytest.raises(UsageError, match=r"save\(path\): got x\.gif\. Allowed: .*\.svg, \.png, \.html"):
        kt.plot.time(folder).save(tmp_path / "x.gif")
    with pytest.raises(ProjectError, match="a folder without a project"):
        kt.plot.history(tmp_path)
    nothing = drawn_projects.write(tmp_path / "none", drawn_projects.Drawn(trials=0))
    with pytest.raises(UsageError, match=r"plot\.curves: .* Allowed: a trial that has logged"):
        kt.plot.curves(nothing)
