"""Convolutional networks of the zoo, in own code and small."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions with batch norm, an in-place ReLU used twice, and an in-place residual addition."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride > 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.layer1 = nn.Sequential(Block(width, width), Block(width, width))
        self.layer2 = nn.Sequential(Block(width, 2 * width, stride=2), Block(2 * width, 2 * width))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.stem(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class UNet(nn.Module):
    """Two levels: down by max pooling, up by transposed convolution, skips by concatenation."""

    def __init__(self, width: int = 4, classes: int = 2) -> None:
        super().__init__()
        self.down1 = self._double(3, width)
        self.down2 = self._double(width, 2 * width)
        self.pool = nn.MaxPool2d(2)
        self.middle = self._double(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.merge2 = self._double(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.merge1 = self._double(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    @staticmethod
    def _double(channels_in: int, channels: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, padding=1),
            nn.GroupNorm(2, channels),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(self.pool(first))
        x = self.up2(self.middle(self.pool(second)))
        x = self.merge2(torch.cat([x, second], dim=1))
        x = self.merge1(torch.cat([self.up1(x), first], dim=1))
        return self.head(x)


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 6, 5, padding=2),
        nn.BatchNorm1d(6),
        nn.ELU(),
        nn.AvgPool1d(2),
        nn.Conv1d(6, 6, 3, dilation=2, groups=3),
        nn.PReLU(6),
        nn.ConvTranspose1d(6, 3, 4, stride=2),
        nn.Flatten(),
        nn.Linear(30, 4),
    )


def conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1),
        nn.InstanceNorm3d(4, affine=True),
        nn.Hardswish(),
        nn.Dropout3d(0.3),
        nn.ConvTranspose3d(4, 3, 2, stride=2),
        nn.BatchNorm3d(3),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(3 * 8 * 8 * 8, 3),
    )


def channels_last() -> nn.Module:
    return ResNet(width=4).to(memory_format=torch.channels_last)


def frozen() -> nn.Module:
    """A network with a backbone that does not train: no gradients, batch norms in eval mode inside a training model."""
    model = ResNet(width=4)
    for part in (model.stem, model.layer1):
        part.requires_grad_(False).eval()
    return model
