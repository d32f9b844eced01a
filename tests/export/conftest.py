import numpy as np
import pytest
import torch

from edgekd.distill.models.architectures import build
from edgekd.records import Architecture, InputSpec
from edgekd.targets.catalogue import load_target


@pytest.fixture(scope="session")
def network():
    """A small network with batch-norm statistics, in evaluation mode, and its input."""

    def make(name, channels=1, size=28):
        with torch.random.fork_rng():
            module = build(
                Architecture(
                    source="edgekd",
                    name=name,
                    channels=channels,
                    classes=4,
                    height=size,
                    width=size,
                )
            ).train()
            for _ in range(3):
                module(torch.randn(16, channels, size, size))
        spec = InputSpec(
            channels=channels,
            height=size,
            width=size,
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
        )
        return module.eval(), spec

    return make


@pytest.fixture(scope="session")
def images():
    def make(count, channels=1, size=28, seed=0):
        draw = np.random.default_rng(seed)
        return draw.standard_normal((count, channels, size, size)).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def fp32(tmp_path_factory, network):
    """A ResNet as FP32 ONNX for JetPack 6.2."""
    from edgekd.export.torch_to_onnx import write_fp32

    module, spec = network("resnet8-w4")
    path = tmp_path_factory.mktemp("fp32") / "model.onnx"
    write_fp32(module, spec=spec, software=load_target("jetson").software, out=path)
    return path
