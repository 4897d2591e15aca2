"""Linear probe: multinomial logistic regression on frozen features, by L-BFGS in float64.

The strength of the regularisation is chosen on a fifth of the training images that is held out by
position; the test images see the last fit alone.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from storage.permutation import mix64

L2 = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
STEPS = 500
_HELD_OUT = 5  # one in five


def linear_probe(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    train_index: np.ndarray | None = None,
    l2: Sequence[float] = L2,
    device: str = "cpu",
) -> Iterator[tuple[str, float]]:
    """Test accuracy, the chosen l2, and the accuracy it was chosen by.

    Args:
        train: features [N, D]; they are standardised by their own mean and deviation.
        train_labels: int [N].
        test: features [M, D].
        test_labels: int [M].
        num_classes: outputs.
        train_index: int [N], distinct: decides who is held out. Default: the row.
        l2: strengths to choose from: weight of half the squared norm of the map, beside the mean
            loss. The bias is free.
        device: where it is computed.
    """
    index = np.arange(len(train)) if train_index is None else train_index
    with np.errstate(over="ignore"):
        held_out = mix64(mix64(index.astype(np.uint64))) % np.uint64(_HELD_OUT) == 0
    chosen = l2[0]
    if len(l2) > 1 and held_out.any() and not held_out.all():
        accuracy = [
            fit(
                train[~held_out], train_labels[~held_out], num_classes, l2=strength, device=device
            ).accuracy(train[held_out], train_labels[held_out])
            for strength in l2
        ]
        chosen = l2[int(np.argmax(accuracy))]
        yield "probe_held_out", max(accuracy)
    model = fit(train, train_labels, num_classes, l2=chosen, device=device)
    yield "probe", model.accuracy(test, test_labels)
    yield "probe_l2", chosen


class Probe:
    """A fitted map from features to logits."""

    def __init__(self, mean: Tensor, std: Tensor, weight: Tensor, bias: Tensor) -> None:
        self.mean, self.std, self.weight, self.bias = mean, std, weight, bias

    def logits(self, features: np.ndarray) -> Tensor:
        """[M, D] -> float64 [M, C]."""
        x = torch.tensor(features, dtype=torch.float64, device=self.weight.device)
        return (x - self.mean) / self.std @ self.weight.T + self.bias

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float:
        """Share of the features [M, D] that are mapped to their label, int [M]."""
        classes = self.logits(features).argmax(dim=1).cpu().numpy()
        return float((classes == labels).mean())


def fit(
    features: np.ndarray, labels: np.ndarray, num_classes: int, *, l2: float, device: str = "cpu"
) -> Probe:
    """The minimum of mean cross-entropy + l2 / 2 |W|^2 over W [C, D] and a bias [C]."""
    x = torch.tensor(features, dtype=torch.float64, device=device)
    y = torch.tensor(labels, dtype=torch.int64, device=device)
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0) + 1e-5
    x = (x - mean) / std
    weight = torch.zeros(num_classes, x.shape[1], dtype=torch.float64, device=device)
    bias = torch.zeros(num_classes, dtype=torch.float64, device=device)
    for parameter in (weight, bias):
        parameter.requires_grad_(True)
    search = torch.optim.LBFGS(
        [weight, bias],
        max_iter=STEPS,
        history_size=10,
        tolerance_grad=1e-8,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        search.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y)
        loss = loss + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    search.step(objective)
    return Probe(mean, std, weight.detach(), bias.detach())
