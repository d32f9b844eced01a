"""Features and tokens of a teacher: the head applied to them gives its logits again."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekd.distill import losses
from edgekd.distill.models import networks
from edgekd.distill.teachers.feature_hooks import (
    has_attention,
    has_features,
    watch_attention,
    watch_features,
)
from edgekd.distill.teachers.onnx.loader import load_onnx
from edgekd.distill.teachers.pt2.loader import load_program
from edgekd.errors import UsageError

OPEN = ({0: torch.export.Dim("batch")},)


@pytest.fixture(scope="module")
def libraries():
    """The networks' libraries, that take seconds to come in."""
    import timm
    import torchvision

    return timm, torchvision.models


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def images(size=64, count=2, channels=3):
    return torch.randn(count, channels, size, size, generator=drawn())


class ConvolutionHead(nn.Module):
    """As SqueezeNet ends: a convolution makes the logits of each place."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.squeeze = nn.Linear(8, 8)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = self.body(x)
        x = x * self.squeeze(x.mean((2, 3))).sigmoid()[..., None, None]
        return functional.adaptive_avg_pool2d(self.head(x), 1).flatten(1)


class PlaceHead(nn.Module):
    """A linear layer that makes the logits of each place."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.body(x).relu().movedim(1, -1)).mean((1, 2))


# --- features -----------------------------------------------------------------------------------

OURS = {
    "lenet5": lambda: networks.LeNet5(channels=3, classes=10, height=32, width=32, scale=0.5),
    "resnet8": lambda: networks.ResNet(
        channels=3, classes=10, blocks=(1, 1, 1), base_width=8, shortcut="pad"
    ),
    "wrn10-1": lambda: networks.WideResNet(channels=3, classes=10, depth=10, factor=1),
    "vgg11": lambda: networks.Vgg11(channels=3, classes=10),
    "mobilenetv2": lambda: networks.MobileNetV2(channels=3, classes=10, factor=0.5),
}
THEIRS = (
    "torchvision:resnet18",
    "torchvision:mobilenet_v3_small",
    "torchvision:densenet121",
    "timm:convnext_atto",
    "timm:vit_tiny_patch16_224",
)


def linear_after(network):
    return [part for part in network.modules() if isinstance(part, nn.Linear)][-1]


def again(network, x, classes=10):
    """Logits, and what the head makes of the features that were watched."""
    with watch_features(network, classes=classes) as watched:
        logits = network(x)
    return logits, linear_after(network)(watched.features)


@pytest.mark.parametrize("name", OURS)
def test_the_head_makes_the_logits_of_the_features_of_our_networks(name):
    network = OURS[name]().eval()
    torch.testing.assert_close(*again(network, images(32)))


@pytest.mark.parametrize("name", THEIRS)
def test_the_head_makes_the_logits_of_the_features_of_other_networks(name, libraries):
    timm, torchvision = libraries
    source, _, name = name.partition(":")
    if source == "timm":
        size = {"img_size": 64} if "vit" in name else {}
        network = timm.create_model(name, num_classes=10, **size)
    else:
        network = getattr(torchvision, name)(num_classes=10)
    nn.init.normal_(linear_after(network).weight)
    torch.testing.assert_close(*again(network.eval(), images()))


def test_a_linear_layer_of_places_gives_features_averaged_over_them():
    torch.testing.assert_close(*again(PlaceHead(), images(9), classes=5))


def test_a_convolution_makes_the_logits_where_no_linear_layer_does(libraries):
    network = ConvolutionHead()
    with watch_features(network, classes=5) as watched:
        logits = network(images(9))
    torch.testing.assert_close(network.head(watched.features[..., None, None])[..., 0, 0], logits)
    squeezenet = libraries[1].squeezenet1_1(num_classes=10).eval()
    with watch_features(squeezenet, classes=10) as watched:
        squeezenet(images())
    torch.testing.assert_close(watched.features, squeezenet.features(images()).mean((2, 3)))


def test_gradients_of_features_reach_the_images():
    network = PlaceHead().requires_grad_(False)
    x = images(9).requires_grad_()
    with watch_features(network, classes=5) as watched:
        network(x)
    losses.activation(watched.features).backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_features_are_those_of_the_last_pass_and_none_are_taken_after_an_error():
    network = PlaceHead()

    def broken():
        with watch_features(network, classes=5) as watched:
            network(images(9))
            network(images(9, count=3))
            assert len(watched.features) == 3
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert not any(part._forward_pre_hooks for part in network.modules())


def test_networks_without_a_layer_of_logits_are_refused_with_what_to_do():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert not has_features(network, classes=5)
    assert has_features(network, classes=4)
    with pytest.raises(UsageError, match="PRE-DFKD"), watch_features(network, classes=5):
        pass


# --- of programs --------------------------------------------------------------------------------


def watched_features(network, x, classes=5):
    assert has_features(network, classes=classes)
    with watch_features(network, classes=classes) as watched:
        network(x)
    return watched.features


class LinearHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3))).softmax(1)


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize("make", [LinearHead, ConvolutionHead])
def test_programs_have_the_features_of_the_network(tmp_path, make, decompose):
    network = make().eval().requires_grad_(False)
    program = torch.export.export(network, (images(9),), dynamic_shapes=OPEN)
    program = program.run_decompositions() if decompose else program
    torch.export.save(program, tmp_path / "t.pt2")
    loaded = load_program(tmp_path / "t.pt2")
    x = images(9, count=3)
    expected = watched_features(network, x)
    torch.testing.assert_close(watched_features(loaded, x), expected)
    copied = copy.deepcopy(loaded)
    torch.testing.assert_close(watched_features(copied, x), expected)
    assert loaded.state_dict().keys() == network.state_dict().keys()


def test_a_program_whose_logits_are_added_up_has_no_features(tmp_path):
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(3, 5), nn.Linear(3, 5)

        def forward(self, x):
            x = x.mean((2, 3))
            return self.one(x) + self.other(x.relu())

    torch.export.save(
        torch.export.export(TwoHeads(), (images(9),), dynamic_shapes=OPEN), tmp_path / "t.pt2"
    )
    assert not has_features(load_program(tmp_path / "t.pt2"), classes=5)


@pytest.mark.parametrize("make", [LinearHead, ConvolutionHead])
def test_onnx_teachers_have_the_features_of_the_network(tmp_path, make):
    network = make().eval().requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (images(9),), tmp_path / "t.onnx", dynamo=False, input_names=["images"],
            opset_version=17, dynamic_axes={"images": {0: "n"}},
        )  # fmt: skip
    x = images(9, count=3)
    found = watched_features(load_onnx(tmp_path / "t.onnx"), x)
    torch.testing.assert_close(found, watched_features(network, x), rtol=1e-4, atol=1e-5)


# --- attention ----------------------------------------------------------------------------------


def test_each_block_gives_the_tokens_of_its_patches(libraries):
    timm, torchvision = libraries
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10, depth=3).eval()
    deit = timm.create_model("deit_tiny_patch16_224", img_size=64, num_classes=10, depth=3).eval()
    ours = torchvision.VisionTransformer(64, 16, 3, 2, 192, 64, num_classes=10).eval()
    for network in (vit, deit, ours):
        assert has_attention(network)
        with watch_attention(network) as watched:
            network(images())
            network(images(count=3))
        assert [tuple(tokens.shape) for tokens in watched.tokens] == [(3, 16, 192)] * 3
    embedded = vit.norm_pre(vit._pos_embed(vit.patch_embed(images(count=3))))
    first = vit.blocks[0].attn(vit.blocks[0].norm1(embedded))[:, 1:]
    with watch_attention(vit) as watched:
        vit(images(count=3))
    torch.testing.assert_close(watched.tokens[0], first)


def test_gradients_of_patch_entropy_reach_the_images(libraries):
    network = libraries[1].VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=10).eval()
    x = images().requires_grad_()
    with watch_attention(network.requires_grad_(False)) as watched:
        network(x)
    entropies = [losses.patch_similarity_entropy(tokens) for tokens in watched.tokens]
    torch.stack(entropies).mean().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("batch_first", [False, True])
def test_images_come_first_in_the_tokens(batch_first):
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=batch_first)

        def forward(self, x):
            x = x if batch_first else x.transpose(0, 1)
            return self.inner(x, x, x)[0]

    network = Attending()
    x = torch.randn(2, 7, 8, generator=drawn())
    with watch_attention(network) as watched:
        answer = network(x)
    (tokens,) = watched.tokens
    assert tokens.shape == (2, 7, 8)
    torch.testing.assert_close(tokens, answer if batch_first else answer.transpose(0, 1))


def test_attention_is_not_watched_after_an_error():
    network = nn.Sequential(nn.MultiheadAttention(8, 2))

    def broken():
        with watch_attention(network):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert not any(p._forward_hooks or p._forward_pre_hooks for p in network.modules())
    assert not has_attention(ConvolutionHead())
