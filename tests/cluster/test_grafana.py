"""The dashboard asks for what is exported. That a run exports it: test_local.py."""

from pathlib import Path

import ray.dashboard.modules.metrics.dashboards as ray_dashboards
import yaml

from pipelines.training.gauges import GAUGES, MISSING
from tests.cluster.support.prometheus import FOLDER, asked_for, dashboard

GPU = {"ray_node_gpus_utilization", "ray_node_gram_used"}  # exported where there are GPUs


def test_every_gauge_of_ours_has_a_panel_and_no_panel_asks_for_another() -> None:
    ours = {f"ray_{name}" for name, _ in (*GAUGES.values(), MISSING)}
    assert {name for name in asked_for() if "vit_on_ray" in name} == ours


def test_gpu_metrics_are_named_as_in_rays_own_dashboard() -> None:
    panels = Path(ray_dashboards.__path__[0]) / "default_dashboard_panels.py"
    assert all(name in panels.read_text() for name in GPU)
    assert asked_for() >= GPU


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    cells = [
        (x, y)
        for at in places
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


def test_prometheus_reads_rays_list_of_nodes_and_nothing_of_the_outside() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    (found,) = job["file_sd_configs"]
    assert found["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]
