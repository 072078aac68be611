import numpy as np
import pytest
from PIL import Image

from remdm.evaluation.curves import draw_loss, draw_win_rates, loss_series, win_rate_series

ENV = "MiniHack-Corridor-R2-v0"


@pytest.fixture
def metrics():
    lines = []
    for epoch in range(6):
        counters = {"epoch": epoch, "env_steps": 1000 * (epoch + 1), "updates": 10 * (epoch + 1)}
        lines.append({**counters, "train/planner/loss": 2.0 / (epoch + 1)})
        if epoch % 2:
            rate = {f"val/win_rate/{ENV}": epoch / 5, "val/win_rate": epoch / 5}
            lines.append({**counters, **rate, "val/episodes": 40.0})
    return lines


def test_loss_series_holds_the_points_in_order(metrics):
    (series,) = loss_series(metrics)
    assert series.name == "train/planner/loss"
    np.testing.assert_array_equal(series.x, [10, 20, 30, 40, 50, 60])
    np.testing.assert_allclose(series.y, 2.0 / np.arange(1, 7))


def test_win_rate_series_are_those_of_environments_with_their_episodes(metrics):
    (series,) = win_rate_series(metrics)
    assert series.name == f"val/win_rate/{ENV}"
    np.testing.assert_array_equal(series.x, [2000, 4000, 6000])
    np.testing.assert_array_equal(series.episodes, [40, 40, 40])


def test_episodes_of_an_environment_win_over_those_of_its_group(metrics):
    metrics[2][f"val/episodes/{ENV}"] = 7
    assert win_rate_series(metrics)[0].episodes[0] == 7


def test_episodes_of_collecting_are_not_taken_for_those_of_one_environment():
    metrics = [{"env_steps": 1, "collect/win_rate/a": 0.5, "collect/episodes": 99}]
    assert win_rate_series(metrics)[0].episodes[0] == 0


def test_stretch_that_was_run_twice_counts_once(metrics):
    again = [{**line, "train/planner/loss": 9.0} for line in metrics if line["epoch"] >= 4]
    (series,) = loss_series([*metrics, *again])
    np.testing.assert_array_equal(series.x, [10, 20, 30, 40, 50, 60])
    np.testing.assert_array_equal(series.y[4:], [9.0, 9.0])


def test_curves_of_separate_processes_are_one_whoever_was_behind():
    """Two collectors write of the same run; one of them began again at an older point."""
    name = f"collect/win_rate/{ENV}"
    lines = [
        {"role": "collect-0", "env_steps": 300, name: 0.3},
        {"role": "collect-1", "env_steps": 200, name: 0.2},
        {"role": "collect-0", "env_steps": 500, name: 0.5},
        {"role": "collect-1", "env_steps": 400, name: 0.9},
        {"role": "collect-1", "env_steps": 400, name: 0.4},
        {"role": "validate-0", "env_steps": 250, f"val/win_rate/{ENV}": 0.7},
    ]
    collected, validated = win_rate_series(lines)
    np.testing.assert_array_equal(collected.x, [200, 300, 400, 500])
    np.testing.assert_allclose(collected.y, [0.2, 0.3, 0.4, 0.5])
    assert validated.name == f"val/win_rate/{ENV}"
    np.testing.assert_allclose(validated.y, [0.7])


@pytest.mark.parametrize("nonsense", ["x", [1], {}, 10**400, True])
def test_lines_with_nonsense_are_no_points(metrics, nonsense):
    before = win_rate_series(metrics)
    metrics.append({"env_steps": nonsense, f"val/win_rate/{ENV}": "y"})
    metrics.append({"env_steps": 9000, f"val/win_rate/{ENV}": "y", "val/episodes": nonsense})
    assert win_rate_series(metrics)[0].x.tolist() == before[0].x.tolist()
    metrics[-1][f"val/win_rate/{ENV}"] = 0.5
    assert win_rate_series(metrics)[0].episodes[-1] in (0, 1)


def test_missing_and_infinite_values_are_left_out():
    metrics = [
        {"updates": 1, "loss": None},
        {"updates": 2, "loss": float("inf")},
        {"loss": 1.0},
        {"updates": 3, "loss": 0.5},
    ]
    assert loss_series(metrics)[0].x.tolist() == [3.0]


@pytest.mark.parametrize("draw", [draw_loss, draw_win_rates])
def test_curve_is_a_picture(draw, metrics, tmp_path):
    path = tmp_path / "report" / "curve.png"
    assert draw(metrics, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) > 400
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("draw", [draw_loss, draw_win_rates])
def test_nothing_to_draw_writes_nothing(draw, tmp_path):
    assert not draw([{"epoch": 1, "env_steps": 2, "updates": 3}], tmp_path / "curve.png")
    assert list(tmp_path.iterdir()) == []


def test_single_points_and_groups_of_their_own_can_be_drawn(tmp_path):
    metrics = [{"env_steps": 5, "updates": 1, "loss": 0.0, "mine/win_rate/a": 1.0}]
    assert draw_loss(metrics, tmp_path / "loss.png")
    assert draw_win_rates(metrics, tmp_path / "rate.png")


def test_unknown_x_axis_is_refused(metrics):
    with pytest.raises(ValueError, match="x axis"):
        loss_series(metrics, x="hours")
