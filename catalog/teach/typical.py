"""Features typical of any picture: what "none of these" looks like to a frozen network.

A network that was trained with batch normalisation knows them: its last layer stores the mean and the spread
that each feature had over all of ImageNet. No picture is needed. The mean of 611 backgrounds of pet photos is
at a squared distance of 24 from them, and that of 2,725 pet faces at 23; pictures of either kind have a total
variance of 150 to 160.
"""

import numpy as np

TOP = 6.0  # highest value of the last activation, ReLU6


def of_network(shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The mean of ReLU6 over normally distributed values, for each feature.

    Args:
        shift: mean of each feature's values, C: the bias of the last batch normalisation.
        scale: their standard deviation, C: its weight.
    """
    from scipy.special import ndtr

    shift, scale = np.asarray(shift, float), np.maximum(np.abs(np.asarray(scale, float)), 1e-9)
    low, high = -shift / scale, (TOP - shift) / scale
    density = [np.exp(-np.square(bound) / 2) / np.sqrt(2 * np.pi) for bound in (low, high)]
    inside = shift * (ndtr(high) - ndtr(low)) + scale * (density[0] - density[1])
    return (inside + TOP * ndtr(-high)).astype(np.float32)
