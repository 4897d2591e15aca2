"""Tensor names in BiT's npz files: those of the paper's TensorFlow code and those of big_vision.

The older files number their convolutions (`standardized_conv2d_17`) by the order of creation. The
rest of the path identifies the convolution, so the number is ignored.
"""

from collections.abc import Callable

from torch import Tensor

from vit.importers.flax import conv, flat
from vit.importers.rules import Rule, counted_from_one


def head_kernel(kernel: Tensor) -> Tensor:
    """Reshape [in, out], or a 1x1 convolution's [1, 1, in, out] -> [out, in, 1, 1]."""
    return kernel.reshape(kernel.shape[-2:]).T[:, :, None, None]


_CONV = r"standardized_conv2d(?:_\d+)?/kernel"
_UNIT_TF = r"resnet/block(\d+)/unit(\d+)"
_UNIT = r"block(\d+)/unit(\d+)"


def _in_unit(there: str, here: str, change: Callable[[Tensor], Tensor]) -> Rule:
    return Rule(there, counted_from_one(f"stages.{{}}.blocks.{{}}.{here}"), change)


RULES: tuple[Rule, ...] = (
    Rule(rf"resnet/root_block/{_CONV}", r"stem.conv.weight", conv),
    *(
        rule
        for number, letter in enumerate("abc", start=1)
        for rule in (
            _in_unit(rf"{_UNIT_TF}/{letter}/{_CONV}", f"conv{number}.weight", conv),
            _in_unit(rf"{_UNIT_TF}/{letter}/group_norm/gamma", f"norm{number}.weight", flat),
            _in_unit(rf"{_UNIT_TF}/{letter}/group_norm/beta", f"norm{number}.bias", flat),
        )
    ),
    _in_unit(rf"{_UNIT_TF}/a/proj/{_CONV}", "downsample.conv.weight", conv),
    Rule(r"resnet/group_norm/gamma", r"norm.weight", flat),
    Rule(r"resnet/group_norm/beta", r"norm.bias", flat),
    Rule(r"resnet/head/conv2d/kernel", r"head.fc.weight", head_kernel),
    Rule(r"resnet/head/conv2d/bias", r"head.fc.bias"),
    # big_vision
    Rule(r"root_block/conv_root/kernel", r"stem.conv.weight", conv),
    _in_unit(rf"{_UNIT}/conv([123])/kernel", r"conv\3.weight", conv),
    _in_unit(rf"{_UNIT}/gn([123])/scale", r"norm\3.weight", flat),
    _in_unit(rf"{_UNIT}/gn([123])/bias", r"norm\3.bias", flat),
    _in_unit(rf"{_UNIT}/conv_proj/kernel", "downsample.conv.weight", conv),
    Rule(r"norm-pre-head/scale", r"norm.weight", flat),
    Rule(r"norm-pre-head/bias", r"norm.bias", flat),
    Rule(r"head/kernel", r"head.fc.weight", head_kernel),
    Rule(r"head/bias", r"head.fc.bias"),
)
