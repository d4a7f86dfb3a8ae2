"""The residual and plain networks of He et al. 2015 for CIFAR in torch, with the keys of the published files."""

from typing import Any


def build(torch: Any, depth: int, shortcut: str, width: int = 16, classes: int = 10) -> Any:
    """A network of 6n + 2 layers; ``shortcut`` is "none", "A" or "B". All 3x3 convolutions are padded by 1.

    Its keys: ``conv1``, ``bn1``, ``layer1.0.conv1``, ..., ``layer2.0.shortcut.0`` (option B), ``linear``.
    """
    nn, relu = torch.nn, torch.nn.functional.relu

    class Block(nn.Module):
        def __init__(self, reads, features, stride):
            super().__init__()
            self.stride, self.more = stride, features - reads
            self.conv1 = nn.Conv2d(reads, features, 3, stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(features)
            self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(features)
            if self.more and shortcut == "B":
                projection = nn.Conv2d(reads, features, 1, stride, bias=False)
                self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(features))

        def forward(self, x):
            y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
            if shortcut == "none":
                return relu(y)
            if self.more and shortcut == "B":
                x = self.shortcut(x)
            elif self.more:
                channels = (self.more // 2, self.more - self.more // 2)
                x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *channels))
            return relu(x + y)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            reads = width
            for stage in (1, 2, 3):
                features, blocks = width * 2 ** (stage - 1), []
                for index in range((depth - 2) // 6):
                    blocks.append(Block(reads, features, 2 if stage > 1 and index == 0 else 1))
                    reads = features
                setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            self.linear = nn.Linear(reads, classes)

        def forward(self, x):
            x = relu(self.bn1(self.conv1(x)))
            return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))

    return Network()
