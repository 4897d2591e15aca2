"""Make the lineage, the curves and the pictures of the page: each is escaped HTML, or ""."""

from collections.abc import Mapping, Sequence
from html import escape

from pipelines.lineage.manifest import WEIGHTS
from pipelines.reporting.amounts import UNKNOWN
from pipelines.reporting.charts import Series, chart
from pipelines.reporting.content import Content, StageContent
from pipelines.reporting.html import lines, pairs, picture
from pipelines.reporting.tables import MOST_COLUMNS, label

_CHARTS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Loss", "loss (nats)", (("train/loss", "training"), ("val/loss", "validation"))),
    (
        "Validation accuracy",
        "fraction correct",
        (
            ("val/accuracy", "accuracy"),
            ("val_ema/accuracy", "of the average"),
            ("val/probe_accuracy", "of a linear probe"),
        ),
    ),
    ("Learning rate", "learning rate", (("train/lr", "learning rate"),)),
    ("Throughput", "images per second", (("train/images_per_second", "images per second"),)),
    ("MFU", "share of the accelerators' peak", (("train/mfu", "MFU"),)),
    ("Gradient norm", "norm before clipping", (("train/gradient_norm", "norm"),)),
    ("Waiting for data", "share of the time", (("train/data_wait_fraction", "waiting"),)),
)
_CAPTIONS = {
    "confusion": "Pairs of classes that are confused most",
    "most-wrong": "The most confident mistakes",
    "augmented-batch": "Training images of the first step, as the network sees them",
    "hidden-patches": "Validation images, what is left of them, and what the network puts there",
    "filters": "Filters of the patch embedding: principal components, grey is zero",
    "position-similarity": "Cosine similarity of position embeddings",
    "attention-distance": "Mean attention distance of each head, by depth",
    "attention-rollout": "Attention rollout over sample images",
}


def lineage(content: Content) -> str:
    """Draw a box per stage, with an arrow if it continues the previous one, and all details."""
    boxes: list[str] = []
    before: StageContent | None = None
    for stage in content.stages:
        parent = stage.tags.get("parent.attempt")
        follows = before is not None and parent == before.attempt and bool(parent)
        origin = f"<span class=sub><br>from {escape(parent)}</span>" if parent else ""
        boxes.append(
            f"<li{' class=child' if follows else ''}><strong>{escape(stage.name)}</strong>"
            f"<span class=mono>{escape(stage.attempt or UNKNOWN)}</span>"
            f"{'' if follows else origin}</li>"
        )
        before = stage
    details = "".join(
        f"<details><summary>{escape(stage.name)} {escape(stage.attempt)}</summary>"
        f"{pairs(_origin(stage))}</details>"
        for stage in content.stages
    )
    places = pairs(
        [
            ("MLflow", f"{content.tracking_uri}, run {content.run_id}"),
            ("storage root", content.storage_root),
        ]
    )
    return f"<ol class=lineage>{''.join(boxes)}</ol>{details}{places}"


def _origin(stage: StageContent) -> list[tuple[str, str]]:
    tags, manifest = stage.tags, stage.manifest
    parent = tags.get("parent.attempt")
    init = stage.config.get("init", "None")
    came = f"{tags.get('parent.stage', '')} {parent}" if parent else None
    data = manifest.dataset if manifest else None
    weights = manifest.files.get(WEIGHTS) if manifest else None
    facts = [
        ("fingerprint", tags.get("fingerprint")),
        ("starts from", came or (None if init in ("None", "") else init) or "fresh weights"),
        ("parent's weights, sha256", tags.get("parent.weights_sha256")),
        ("dataset", data.name if data else tags.get("dataset")),
        ("dataset digest", data.digest if data else tags.get("dataset_digest")),
        ("git commit", (manifest and manifest.git_commit) or tags.get("git_commit")),
        ("versions", manifest and _listed(manifest.versions)),
        ("arithmetic", manifest and _listed(manifest.arithmetic)),
        ("started", manifest and manifest.started),
        ("weights", stage.uri if manifest else f"{stage.uri} (not committed)"),
        ("weights, sha256", weights and weights.sha256),
        ("MLflow run", stage.run_id),
        ("Ray job", tags.get("ray_job_id")),
    ]
    return [(name, str(value)) for name, value in facts if value]


def _listed(said: Mapping[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in said.items())


def curves(stages: Sequence[StageContent]) -> str:
    """The charts of each attempt."""
    parts: list[str] = []
    for stage in stages:
        drawn: list[str] = []
        last = max((curve[-1][0] for curve in stage.curves.values() if curve), default=1)
        for title, unit, names in _CHARTS:
            series = [
                Series(legend, stage.curves[name], dots=name.startswith("val"))
                for name, legend in names
                if name in stage.curves
            ]
            drawn.append(chart(title, unit, series, last_step=last))
        if any(drawn):
            charts = f"<div class=grid-charts>{''.join(drawn)}</div>"
            parts.append(_under(stage, stages, charts))
    return "".join(parts)


def pictures(stages: Sequence[StageContent]) -> str:
    """The pictures of each attempt."""
    parts: list[str] = []
    for stage in stages:
        shown = "".join(picture(png, _caption(name)) for name, png in stage.pictures.items())
        if shown or stage.left_out:
            grid = f"<div class=pictures>{shown}</div>{lines(stage.left_out)}"
            parts.append(_under(stage, stages, grid))
    return "".join(parts)


def _under(stage: StageContent, stages: Sequence[StageContent], body: str) -> str:
    """Put the body below the stage's name; collapsed if there are many stages."""
    name = escape(label(stage, stages))
    if len(stages) <= MOST_COLUMNS:
        return f"<h3>{name}</h3>{body}"
    return f"<details><summary>{name}</summary>{body}</details>"


def _caption(name: str) -> str:
    stem = name.rpartition("/")[2].removesuffix(".png")
    return _CAPTIONS.get(stem, name.removeprefix("pictures/").removesuffix(".png"))
