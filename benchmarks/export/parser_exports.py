"""Files that edgekd itself exports, of many architectures with random weights.

Through the functions that the product exports with, without its judgement of accuracy: that of random
weights says nothing, and a file that answers otherwise is a file that NVIDIA must take all the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import onnx
import torchvision
from torch import nn

from benchmarks.export.graphs import CLASSES, Network, draw_weights, make_module
from benchmarks.export.parser_files import File, Group, newest
from edgekd.errors import EdgekdError
from edgekd.export import compatibility, fp16, pre_post_processing, qdq, torch_to_onnx
from edgekd.export.parity import Array
from edgekd.records import InputSpec, Software
from edgekd.targets.catalogue import load_target

# Of strong typing, and of weak
SOFTWARE: Final = ("jp7.2", "jp6.2")
PRECISIONS: Final = {"strong": ("fp32", "fp16", "int8"), "weak": ("fp32", "int8")}
BATCHES: Final = ("fixed", "open")
EMBEDDED: Final = ("plain", "preprocessing")
IMAGES: Final = 4
# Pixels; what a network has more of with larger images, it has more often
SIDE: Final = 64
Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One architecture."""

    name: str
    make: Callable[[], nn.Module]
    side: int


def _timm(name: str, side: int = SIDE, **options: object) -> Subject:
    network = Network(name=name, side=side, options=options)
    return Subject(name=f"timm:{name}", make=partial(make_module, network), side=side)


def _sized(name: str, side: int = SIDE, **options: object) -> Subject:
    """Of a network that must be told its size."""
    return _timm(name, side, img_size=side, **options)


def _torchvision(name: str, side: int = SIDE, **options: Any) -> Subject:  # noqa: ANN401
    make = partial(
        draw_weights,
        lambda: torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options),
    )
    return Subject(name=f"torchvision:{name}", make=make, side=side)


# Different kinds first: whoever stops early has seen most of them.
SUBJECTS: Final = (
    _timm("resnet18"),
    _timm("mobilenetv2_100"),
    _timm("mobilenetv3_small_100"),
    _timm("mobilenetv4_conv_small"),
    _timm("efficientnet_b0"),
    _timm("convnext_atto"),
    _sized("vit_tiny_patch16_224"),
    _sized("deit_tiny_patch16_224"),
    _timm("regnety_002"),
    _timm("mobilevit_xxs"),
    _timm("ghostnet_100"),
    _timm("repvgg_a0"),
    _timm("fastvit_t8"),
    _timm("edgenext_xx_small"),
    _timm("mobileone_s0"),
    _torchvision("squeezenet1_1"),
    _torchvision("shufflenet_v2_x0_5"),
    _torchvision("mnasnet0_5"),
    _timm("poolformer_s12"),
    _sized("levit_128s", 224),
    _sized("coatnet_pico_rw_224", 64),
    _timm("tiny_vit_5m_224", 224),
    _sized("swin_tiny_patch4_window7_224", 128, window_size=4),
    _timm("efficientformerv2_s0", 224),
    _timm("efficientformer_l1", 224),
    _timm("efficientvit_b0"),
    _timm("starnet_s1"),
    _timm("inception_v3", 96),
    _timm("densenet121"),
    _timm("repvit_m0_9"),
    _timm("mobilenetv1_100"),
    _timm("tf_efficientnetv2_b0"),
    _timm("regnetx_002"),
    _timm("lcnet_050"),
    _timm("hardcorenas_a"),
    _timm("tinynet_e"),
    _timm("rexnet_100"),
    _timm("pvt_v2_b0"),
    _timm("repghostnet_050"),
    _timm("semnasnet_050"),
    _timm("efficientnet_lite0"),
    _timm("mobilevitv2_050"),
    _timm("convnextv2_atto"),
    _timm("mobilenetv4_hybrid_medium"),
    _timm("nf_regnet_b0"),
    _timm("hgnetv2_b0"),
    _sized("xcit_nano_12_p16_224"),
    _sized("mixer_s16_224"),
    _timm("seresnet18"),
    _timm("skresnet18"),
    _timm("resnest14d"),
    _timm("res2net50_26w_4s"),
    _timm("ese_vovnet19b_dw"),
    _timm("selecsls42"),
    _timm("dla34"),
    _timm("efficientvit_m0", 224),
    _timm("shvit_s1"),
    _timm("inception_next_atto"),
    _timm("mambaout_femto"),
    _timm("swiftformer_xs", 224),
    _timm("fbnetv3_b"),
    _timm("spnasnet_100"),
    _timm("resnet50"),
    _torchvision("googlenet", aux_logits=False, init_weights=False),
    _torchvision("mobilenet_v3_small"),
    _torchvision("regnet_y_400mf"),
    _torchvision("resnext50_32x4d"),
    _torchvision("vgg11_bn"),
    _torchvision("alexnet"),
    _sized("cait_xxs24_224"),
    _sized("resmlp_12_224"),
    _sized("gmlp_s16_224"),
    _sized("visformer_tiny"),
    _timm("nextvit_small"),
    _timm("davit_tiny"),
    _timm("cspresnet50"),
    _timm("hrnet_w18_small"),
)


def exports() -> Iterator[Group]:
    """A group for each architecture: software, precision, batch, preprocessing."""
    softwares = [_software(name) for name in SOFTWARE]
    for subject in SUBJECTS:
        keys = tuple(
            (subject.name, _variant(software, precision, batch, embedded))
            for software in softwares
            for batch, precision, embedded in product(
                BATCHES, PRECISIONS[software.typing], EMBEDDED
            )
        )
        yield Group(keys=keys, make=partial(_files, subject, softwares))


def _software(name: str) -> Software:
    return load_target(f"jetson@{name}").software


def _variant(software: Software, precision: str, batch: str, embedded: str) -> str:
    return f"{software.name} {precision} {batch} {embedded}"


@dataclass(kw_only=True)
class _Making:
    """One architecture for one software and batch."""

    module: nn.Module
    spec: InputSpec
    software: Software
    dynamic_batch: bool
    images: Array
    models: dict[str, onnx.ModelProto] = field(default_factory=dict)

    def make(self, precision: str) -> onnx.ModelProto:
        """The file in that precision; `fp32` must have been made for the others."""
        if precision == "fp32":
            self.models["fp32"] = torch_to_onnx.fp32_model(
                self.module,
                spec=self.spec,
                software=self.software,
                dynamic_batch=self.dynamic_batch,
            )
            return self.models["fp32"]
        fp32 = self.models["fp32"]
        if precision == "fp16":
            return fp16.to_half(fp32, keep=fp16.overflowing(fp32, self.images))
        chosen = qdq.choose(
            fp32, calibration=self.images, held_out=self.images[:1], methods=["max"]
        )
        pairs = qdq.with_pairs(fp32, chosen.limits)
        if self.software.typing != "strong":
            return pairs
        return fp16.to_half(pairs, keep=fp16.overflowing(pairs, self.images))


def _files(subject: Subject, softwares: list[Software], folder: Path) -> Iterator[File]:
    side = subject.side
    module, broken = _try(subject.make)
    draw = np.random.default_rng(0)
    images = draw.standard_normal((IMAGES, 3, side, side)).astype(np.float32)
    for software, batch in product(softwares, BATCHES):
        making = _Making(
            # Without one, nothing is asked of it.
            module=nn.Identity() if module is None else module,
            spec=InputSpec(channels=3, height=side, width=side, mean=(0.5,) * 3, std=(0.25,) * 3),
            software=software,
            dynamic_batch=batch == "open",
            images=images,
        )
        first = broken
        for precision in PRECISIONS[software.typing]:
            model, why = (None, first) if any(first) else _try(partial(making.make, precision))
            if precision == "fp32":
                first = why
            for embedded in EMBEDDED:
                path = folder / f"{software.name}-{batch}-{precision}-{embedded}.onnx"
                told = why
                if model is not None:
                    told = _write(model, path, making, embedded)
                yield File(
                    name=subject.name,
                    variant=_variant(software, precision, batch, embedded),
                    path=None if any(told) else path,
                    softwares=(software, newest()),
                    refused=told[0],
                    failed=told[1],
                )


def _write(model: onnx.ModelProto, path: Path, making: _Making, embedded: str) -> tuple[str, str]:
    def write() -> None:
        parts = pre_post_processing.parse_parts(() if embedded == "plain" else (embedded,))
        whole = pre_post_processing.add_parts(model, parts, making.spec)
        data = whole.SerializeToString(deterministic=True)
        compatibility.require_legal_model(whole, making.software, data=data, name=path.name)
        path.write_bytes(data)

    return _try(write)[1]


def _try(make: Callable[[], Made]) -> tuple[Made | None, tuple[str, str]]:
    """What was made; else why edgekd refuses it, or what broke."""
    try:
        return make(), ("", "")
    except EdgekdError as error:
        return None, (f"refused by edgekd: {' '.join(str(error).split())}", "")
    except Exception as error:  # a row of the table, not the end of it
        return None, ("", " ".join(f"{type(error).__name__}: {error}".split()))
