"""What a network can learn from images: their labels, or what is hidden of them.

masked        the settings: how much is hidden, and the decoder
hiding        which patches of a sample are hidden, by its key
objective     what every objective can do (`Objective`), and what it asks of the network
classify      the label (softmax or sigmoid cross-entropy, mixup, cutmix)
masked_patch  the mean colour of hidden patches (section B.1.2 of arXiv:2010.11929)
mae           the pixels of hidden patches, by a light decoder (arXiv:2111.06377)
build         an objective by its name

A network that learns without labels is a `ViT` with more tensors, whose names begin with
`pretext.`. They are left out of the weights that the next stage gets.
"""

from vit.objectives.build import check_objective, objective_of
from vit.objectives.masked import Masked
from vit.objectives.objective import Asked, Kind, Objective, is_pretext

__all__ = ["Asked", "Kind", "Masked", "Objective", "check_objective", "is_pretext", "objective_of"]
