import math
from importlib import import_module

import pytest
import torch

from tests.vit.support.peers import import_timm
from vit import loss_fn
from vit.losses import one_hot

import_timm()
LOSSES = import_module("timm.loss")

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def test_softmax_of_zero_logits_is_log_classes():
    assert loss_fn("softmax", torch.zeros(6, 4), LABELS).item() == pytest.approx(math.log(4))


def test_sigmoid_sums_over_classes_and_averages_over_the_batch():
    assert loss_fn("sigmoid", torch.zeros(6, 4), LABELS).item() == pytest.approx(4 * math.log(2))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "bce"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_labels_and_their_one_hot_targets_cost_the_same(kind, label_smoothing):
    by_label = loss_fn(kind, LOGITS, LABELS, label_smoothing=label_smoothing)
    by_target = loss_fn(kind, LOGITS, one_hot(LABELS, 4), label_smoothing=label_smoothing)
    torch.testing.assert_close(by_label, by_target)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "bce"])
def test_equal_micro_batches_average_to_the_whole_batch(kind):
    whole = loss_fn(kind, LOGITS, LABELS)
    parts = [loss_fn(kind, LOGITS[i : i + 2], LABELS[i : i + 2]) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "bce"])
def test_unequal_micro_batches_sum_to_the_whole_batch(kind):
    whole = loss_fn(kind, LOGITS, LABELS, reduction="sum")
    parts = [loss_fn(kind, LOGITS[s], LABELS[s], reduction="sum") for s in (slice(4), slice(4, 6))]
    torch.testing.assert_close(sum(parts), whole)
    torch.testing.assert_close(whole / 6, loss_fn(kind, LOGITS, LABELS))


def test_half_precision_logits_are_summed_in_float32():
    loss = loss_fn("sigmoid", torch.zeros(2, 21_843, dtype=torch.bfloat16), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(21_843 * math.log(2), rel=1e-6)


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match="'hinge'"):
        loss_fn("hinge", LOGITS, LABELS)  # pyright: ignore[reportArgumentType] - the point


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_of_labels_is_timms(smoothing):
    theirs = LOSSES.BinaryCrossEntropy(smoothing=smoothing)(LOGITS, LABELS)
    torch.testing.assert_close(loss_fn("bce", LOGITS, LABELS, label_smoothing=smoothing), theirs)


def test_every_class_of_a_mixed_image_is_there():
    """As timm's with `target_threshold=0.0`: the share of a class in the mix does not count."""
    shares = torch.tensor([0.9, 0.1, 0.0, 0.0])
    mixed = shares.expand(6, 4).clone()
    theirs = LOSSES.BinaryCrossEntropy(smoothing=0.0, target_threshold=0.0)(LOGITS, mixed)
    torch.testing.assert_close(loss_fn("bce", LOGITS, mixed), theirs)
    both = torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(6, 4)
    torch.testing.assert_close(loss_fn("bce", LOGITS, both), theirs)
