"""A suite of real images that pack without a network: scikit-learn's digits and Fashion-MNIST.

Three groups after VTAB's: what an image shows, a narrow domain, and a property that is not an
object's name. 200 training examples a task, in VTAB's proportion.
"""

from pipelines.campaigns.suites.suite import Suite, Task
from pipelines.recipes.data import Data
from vit import OptimConfig

DIGITS = (
    Task(name="digits", group="natural", dataset="digits", num_classes=10, flip=False),
    Task(
        name="digits-3-5-8",
        group="specialised",
        dataset="digits",
        num_classes=3,
        classes=(3, 5, 8),
        flip=False,
    ),
    Task(
        name="digits-parity",
        group="structured",
        dataset="digits",
        num_classes=2,
        labels=(0, 1) * 5,
        flip=False,
    ),
    Task(
        name="digits-over-four",
        group="structured",
        dataset="digits",
        num_classes=2,
        labels=(0,) * 5 + (1,) * 5,
        flip=False,
    ),
)
FASHION = (
    Task(name="fashion", group="natural", dataset="fashion-mnist", num_classes=10),
    Task(  # sandal, sneaker, ankle boot
        name="fashion-footwear",
        group="specialised",
        dataset="fashion-mnist",
        num_classes=3,
        classes=(5, 7, 9),
    ),
    Task(  # on the body, on the feet, in the hand
        name="fashion-where-worn",
        group="structured",
        dataset="fashion-mnist",
        num_classes=3,
        labels=(0, 0, 0, 0, 0, 1, 0, 1, 2, 1),
    ),
)

SMALL = Suite(
    name="small",
    tasks=(*DIGITS, *FASHION),
    source="after VTAB, arXiv:1910.04867",
    train_samples=160,
    held_out_samples=40,
    sweep=(0.01, 0.03),
    optim=OptimConfig(name="sgd", clip_norm=1.0, warmup_steps=10),
    steps=100,
    global_batch=32,
    seeds=2,
    data=Data(area=(0.6, 1.0), eval_crop="resize", tail="carry"),
)
