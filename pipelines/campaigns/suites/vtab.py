"""VTAB-1k (arXiv:1910.04867): 19 tasks of 1,000 training examples, 800 to sweep on, 200 held out.

Fine-tuned as the Vision Transformer's paper does (appendix B.1.1 of arXiv:2010.11929): 384 px for
all tasks, 2,500 steps at 0.01, no sweep by task. Images are resized whole and not mirrored: place
and direction are labels here. Each dataset is packed whole under the name below; the examples are
drawn by `storage.selection`, so they are not TFDS's first 1,000. Where one set of images has two
tasks it is packed twice, once with each label.
"""

from pipelines.campaigns.suites.suite import Group, Suite, Task
from pipelines.recipes.data import Data
from vit import OptimConfig

_CLASSES: dict[Group, dict[str, int]] = {
    "natural": {
        "caltech101": 102,
        "cifar100": 100,
        "dtd": 47,
        "flowers": 102,
        "pets": 37,
        "sun397": 397,
        "svhn": 10,
    },
    "specialised": {
        "patch-camelyon": 2,
        "eurosat": 10,
        "resisc45": 45,
        "diabetic-retinopathy": 5,
    },
    "structured": {
        "clevr-count": 8,
        "clevr-distance": 6,
        "dmlab": 6,
        "kitti-distance": 4,
        "dsprites-location": 16,
        "dsprites-orientation": 16,
        "smallnorb-azimuth": 18,
        "smallnorb-elevation": 9,
    },
}

VTAB = Suite(
    name="vtab",
    tasks=tuple(
        Task(name=name, group=group, dataset=name, num_classes=count)
        for group, members in _CLASSES.items()
        for name, count in members.items()
    ),
    source="VTAB-1k, arXiv:1910.04867; appendix B.1.1 of arXiv:2010.11929",
    image_size=384,
    sweep=(0.01,),
    optim=OptimConfig(name="sgd", clip_norm=1.0, warmup_steps=500),
    steps=2500,
    global_batch=512,
    seeds=3,
    data=Data(crop="resize", eval_crop="resize", flip=False, tail="carry"),
)
