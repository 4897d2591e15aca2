"""Are the numbers right: the device against the CPU, start weights, loss curves, a resume."""

import tempfile

import torch
from torch import Tensor, nn

import vit
from benchmarks.gpu.bench import Bench, relative
from benchmarks.model import TIMM
from cluster import resume_state
from cluster.precision import Precision, set_arithmetic
from cluster.settings import ZeroLevel
from storage.pieces import commit_parts, open_pieces, write_part
from tests.vit.support.peers import import_timm


def parity(bench: Bench) -> None:
    """Logits and gradients of the same weights and images on the CPU, on the device, in timm."""
    for size in ("ti", "b"):
        config = bench.config(size)
        model = vit.build_model(config, seed=1)
        with torch.no_grad():
            vit_head(model).weight.normal_(0, 0.02)  # it starts at 0, where all logits are equal
        pixels, labels = bench.images(config, 8)
        images = vit.normalize(pixels)
        logits, gradients = _both(model, images, labels)
        there = vit.build_model(config, seed=1).to(bench.device)
        there.load_state_dict(model.state_dict())
        for precision in ("float32", "tf32"):
            set_arithmetic(precision)
            got, slopes = _both(there, images, labels)
            errors = relative(got, logits), relative(slopes, gradients)
            text = f"logits {errors[0]:.1e}, gradients {errors[1]:.1e}"
            name = f"parity {size} {precision}"
            if precision == "tf32":
                bench.report.figure(name, text)
            else:
                bench.report.check(name, errors[0] < 2e-5 and errors[1] < 1e-4, text)
        set_arithmetic("float32")
        _against_timm(bench, size, there, images)
        got, slopes = _both(there.to(torch.bfloat16), images, labels)
        errors = relative(got, logits), relative(slopes, gradients)
        bench.report.check(
            f"parity {size} bfloat16",
            errors[0] < 3e-2 and errors[1] < 6e-2,
            f"logits {errors[0]:.1e}, gradients {errors[1]:.1e}",
        )
        bench.clear()


def vit_head(model: nn.Module) -> nn.Linear:
    """Return the classifier of a ViT."""
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    return head


def _both(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [b, classes] and all gradients in one row, in float32 on the CPU."""
    first = next(model.parameters())
    model.zero_grad(set_to_none=True)
    logits = model(images.to(first.device, first.dtype)).float()
    vit.loss_fn("softmax", logits, labels.to(first.device)).backward()
    slopes = [p.grad.float().flatten().cpu() for p in model.parameters() if p.grad is not None]
    return logits.detach().cpu(), torch.cat(slopes)


def _against_timm(bench: Bench, size: str, model: nn.Module, images: Tensor) -> None:
    try:
        timm = import_timm()
    except ImportError:
        bench.report.figure(f"parity {size} timm", "not run: timm is not installed")
        return
    config = bench.config(size)
    changes = {"img_size": config.image_size, "num_classes": config.num_classes}
    if bench.tiny:
        changes |= {"depth": config.depth, "embed_dim": config.width, "num_heads": config.heads}
        changes |= {"mlp_ratio": config.mlp_dim // config.width}
    peer = timm.create_model(TIMM[size], act_layer="gelu_tanh", **changes).to(bench.device)
    peer.load_state_dict(model.state_dict())
    with torch.no_grad():
        there = images.to(bench.device)
        error = relative(model.eval()(there), peer.eval()(there))
    bench.report.check(f"parity {size} timm", error < 1e-5, f"logits {error:.1e}")


def start(bench: Bench) -> None:
    """A stage starts from the float32 weights that it is given, in bfloat16 too."""
    config = bench.config("ti")
    cases: list[tuple[Precision, ZeroLevel]] = [
        ("float32", 1),
        ("bfloat16", 1),
        ("bfloat16", 2),
        ("bfloat16", 3),
    ]
    for precision, level in cases:
        model = vit.build_model(config, seed=3)
        given = {name: p.detach().clone() for name, p in model.named_parameters()}
        engine = bench.engine(model, level, precision, micro=2)
        if precision == "bfloat16":
            resume_state.set_masters(engine, given)
        held = resume_state.gather_weights(engine)
        same = sum(torch.equal(given[name].cpu(), held[name].cpu()) for name in given)
        bench.report.check(
            f"start {precision} level {level}", same == len(given), f"{same} of {len(given)} equal"
        )
        engine.destroy()


def curves(bench: Bench) -> None:
    """Losses of 40 AdamW steps: levels, precisions and accumulation against float32 at level 0."""
    batch, steps = (16, 6) if bench.tiny else (64, 40)
    cases: list[tuple[Precision, ZeroLevel, int]] = [
        ("float32", 0, 1),
        ("float32", 1, 1),
        ("float32", 2, 1),
        ("bfloat16", 1, 1),
        ("bfloat16", 2, 1),
        ("bfloat16", 3, 1),
        ("bfloat16", 1, batch // 2),
    ]
    reference: list[float] = []
    for precision, level, accumulation in cases:
        losses = _curve(bench, precision, level, batch, accumulation, steps)
        reference = reference or losses
        worst = max(abs(a - b) for a, b in zip(losses, reference, strict=True))
        bench.report.check(
            f"curve {precision} level {level} accumulation {accumulation}",
            worst < (1e-3 if precision == "float32" else 5e-2),
            f"at most {worst:.1e} from float32, last loss {losses[-1]:.4f}",
        )
        bench.clear()


def _curve(
    bench: Bench, precision: Precision, level: ZeroLevel, batch: int, accumulation: int, steps: int
) -> list[float]:
    config, micro = bench.config("ti"), batch // accumulation
    optim = vit.OptimConfig(peak_lr=3e-4, weight_decay=0.1)
    engine = bench.engine(
        vit.build_model(config, seed=1),
        level,
        precision,
        micro=micro,
        accumulation=accumulation,
        optim=optim,
    )
    pixels, labels = bench.images(config, 4 * batch, seed=5)
    losses = []
    for step in range(steps):
        at = step % 4 * batch
        total = 0.0
        for begin in range(at, at + batch, micro):
            rows = slice(begin, begin + micro)
            total += float(bench.train(engine, pixels[rows], labels[rows], precision))
        losses.append(total / accumulation)
    engine.destroy()
    return losses


def resume(bench: Bench) -> None:
    """A resume by way of storage against an unbroken run: the same bits where kernels allow it."""
    for deterministic in (False, True):
        levels: tuple[ZeroLevel, ...] = (1,) if bench.tiny else (1, 2, 3)
        for level in levels:
            ends = [_halves(bench, level, deterministic, broken) for broken in (False, False, True)]
            noise, error = (relative(end, ends[0]) for end in ends[1:])
            bench.report.check(
                f"resume level {level}{' deterministic' if deterministic else ''}",
                error == 0 if deterministic else error <= max(10 * noise, 1e-6),
                f"resumed {error:.1e}, the same run twice {noise:.1e}",
            )
    torch.use_deterministic_algorithms(False)


def _halves(bench: Bench, level: ZeroLevel, deterministic: bool, broken: bool) -> Tensor:
    """Train, by way of a resume state if `broken`; return all weights in one row.

    Not each tensor by itself: the bias of the keys has no gradient but rounding errors, which Adam
    makes as large as any other update.
    """
    set_arithmetic("bfloat16", deterministic=deterministic)
    config, half, batch = bench.config("ti"), 3 if bench.tiny else 8, 16 if bench.tiny else 64
    pixels, labels = bench.images(config, 2 * half * batch, seed=5)
    model = vit.build_model(config, seed=1)
    engine = bench.engine(model, level, "bfloat16", micro=batch, average=True)
    for step in range(2 * half):
        if step == half and broken:
            with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
                pieces = [
                    (name, shape, at, values.to("cpu", copy=True))
                    for name, shape, at, values in resume_state.own_pieces(engine)
                ]
                write_part(folder, "token", 0, 1, pieces)
                assert commit_parts(folder, "token", 1, {})
                engine.destroy()
                with open_pieces(folder) as state:
                    model = vit.build_model(config, seed=2)
                    model.load_state_dict(resume_state.module_weights(state))
                    engine = bench.engine(model, level, "bfloat16", micro=batch, average=True)
                    resume_state.restore(engine, state, step=half)
        rows = slice(step * batch, (step + 1) * batch)
        bench.train(engine, pixels[rows], labels[rows], "bfloat16")
    weights = resume_state.gather_weights(engine)
    engine.destroy()
    bench.clear()
    return torch.cat([weights[name].flatten().cpu() for name in sorted(weights)])
