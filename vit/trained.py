"""Which part of a model is trained: all of it, head, biases, last blocks, or adapters.

What is not trained gets no gradient, no weight decay and no optimizer state. Dropout and stochastic
depth act everywhere, as without it, and a layer's rate under layer-wise decay still follows from
its place in the whole network.
"""

import re
from functools import lru_cache

from vit.build import Model, build_model
from vit.config import Config
from vit.errors import BadModel
from vit.lora import add_adapters, is_adapter, lora_of
from vit.optim import Layered

ALL, HEAD, BIAS = "all", "head", "bias"
# With the pre-training head's hidden layer, which another kind of head resets too (`vit.surgery`).
_HEAD = ("head", "pre_logits.")
_BLOCKS = re.compile(r"blocks (0|[1-9]\d*)\.\.", re.ASCII)  # one spelling of each number


def check_train(train: str, config: Config) -> None:
    """Check a choice against a model; `freeze` explains the choices.

    Raises:
        BadModel: the choice is unknown, or the model has no such block.
    """
    if train in (ALL, HEAD, BIAS):
        return
    if lora_of(train):
        freeze(build_model(config, device="meta"), train)
        return
    first, blocks = _first_block(train), _blocks(config)
    if first is None or first >= blocks:
        raise BadModel(
            f"train: wanted all, head, bias, 'lora RANK', or 'blocks N..' with N from 0 to"
            f" {blocks - 1}, found {train!r}"
        )


def freeze(model: Model, train: str, *, seed: int = 0) -> None:
    """Switch off the gradients of the parameters that are not trained, in place; add adapters.

    Args:
        model: from `build_model`.
        train: `all`; `head`: the classifier, with the pre-training head's hidden layer; `bias`:
            every bias and the head (BitFit, arXiv:2106.10199); `blocks N..`: the blocks from N
            (counted from 0) to the last, the norm and the head after them; `lora RANK`: adapters
            that are added to the blocks (`vit.lora`), and the head.
        seed: of the adapters' first weights.

    Raises:
        BadModel: the model cannot have these adapters.
    """
    lora = lora_of(train)
    if lora:
        add_adapters(model, lora, seed=seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_is_trained(name, model, train))


@lru_cache(maxsize=32)
def trained_parameters(config: Config, train: str) -> int:
    """Count the numbers in the parameters that are trained."""
    model = build_model(config, device="meta")
    freeze(model, train)
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


@lru_cache(maxsize=32)
def training_flops(config: Config, train: str) -> int:
    """FLOPs of a training step per image, from `vit.cost`.

    The backward pass has two products for each one of the forward pass: the gradient of the layer's
    input and that of its weights. `bias` and `lora` need
    the first kind alone (an adapter itself counts as nothing). `blocks N..` needs both in its
    share of the blocks, and `head` neither: the head itself counts as nothing there.
    """
    cost = build_model(config, device="meta").cost()
    first = _first_block(train)
    share = {ALL: 1.0, HEAD: 0.0}.get(train, 0.5)
    if first is not None:
        share = 1 - first / _blocks(config)
    return round(cost.forward_flops + share * (cost.training_flops - cost.forward_flops))


def _is_trained(name: str, model: Layered, train: str) -> bool:
    first = _first_block(train)
    if first is not None:
        return model.layer_of(name) > first  # layer 0 is the embedding
    chosen = train == ALL or (train == BIAS and name.endswith("bias")) or is_adapter(name)
    return chosen or name.startswith(_HEAD)


def _first_block(train: str) -> int | None:
    found = _BLOCKS.fullmatch(train)
    return int(found[1]) if found else None


@lru_cache(maxsize=32)
def _blocks(config: Config) -> int:
    return build_model(config, device="meta").num_layers - 2  # embedding; norm and head
