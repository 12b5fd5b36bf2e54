"""A small residual CNN, trained from scratch."""

from typing import Annotated

import torch
from torch import nn

from models.build import MAX_VALUE, network


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch norm and a shortcut.

    A downsampling shortcut uses average pooling instead of a strided convolution, so no pixel is skipped
    (He et al. 2018, "Bag of Tricks", arXiv:1812.01187, model tweak D).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        # Each block starts as the identity (arXiv:1706.02677, section 5.1), which stabilises early training.
        nn.init.zeros_(self.body[-1].weight)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
        if channels_in != channels_out:
            self.shortcut.append(nn.Conv2d(channels_in, channels_out, 1, bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


@network()
class ScratchCNN(nn.Module):
    """Stem, residual stages (downsampling from the second on), average pooling, dropout, linear head.

    Args:
        num_classes: length of the output.
        widths: channels of each stage.
        depths: residual blocks in each stage.
        dropout: dropout probability of the pooled features.
    """

    def __init__(
        self,
        num_classes: int,
        widths: list[Annotated[int, (1, MAX_VALUE)]],
        depths: list[Annotated[int, (1, MAX_VALUE)]],
        dropout: Annotated[float, (0, 1)] = 0.0,
    ):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        blocks, channels = [], widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for block in range(depth):
                stride = 2 if block == 0 and stage > 0 else 1
                blocks.append(ResidualBlock(channels, width, stride))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled features, N×C, of images N×3×H×W."""
        return self.blocks(self.stem(x)).mean(dim=(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.forward_features(x)))
