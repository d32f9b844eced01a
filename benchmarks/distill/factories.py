"""Teachers without batch-norm that are no networks of edgekd: a small vision transformer, and group norm."""

from torch import nn


def vit() -> nn.Module:
    """28 x 28 grey in 49 patches, width 64, four blocks (timm's VisionTransformer)."""
    from timm.models.vision_transformer import VisionTransformer

    made: nn.Module = VisionTransformer(
        img_size=28,
        patch_size=4,
        in_chans=1,
        num_classes=10,
        embed_dim=64,
        depth=4,
        num_heads=4,
        mlp_ratio=2.0,
    )
    return made


def groupnorm() -> nn.Module:
    """Four convolutions with group norm, averaged over places."""

    def block(before: int, after: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.GroupNorm(4, after),
            nn.ReLU(),
        )

    return nn.Sequential(
        block(1, 16, 1),
        block(16, 32, 2),
        block(32, 64, 2),
        block(64, 64, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
