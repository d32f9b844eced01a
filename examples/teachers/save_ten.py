"""Save ten networks of torchvision and timm the ways people do, for `edgekd teacher describe`.

python examples/teachers/save_ten.py FOLDER

The weights are random, and the classes are not the libraries' thousand: these are files as they
come out of somebody's training. Prints each file with the network that is in it.
"""

import sys
import warnings
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models


def state_dict(path: Path) -> str:
    torch.save(models.mobilenet_v3_small(num_classes=12).state_dict(), path)
    return "torchvision:mobilenet_v3_small"


def wrapped(path: Path) -> str:
    module = timm.create_model("efficientnet_b0", num_classes=5)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    content = {"epoch": 90, "model": module.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(content, path)
    return "timm:efficientnet_b0"


def data_parallel(path: Path) -> str:
    module = nn.DataParallel(models.densenet121(num_classes=37))
    torch.save({"arch": "densenet121", "state_dict": module.state_dict()}, path)
    return "torchvision:densenet121"


def compiled(path: Path) -> str:
    module = torch.compile(timm.create_model("convnext_atto", num_classes=20))
    torch.save(module.state_dict(), path)
    return "timm:convnext_atto"


def averaged(path: Path) -> str:
    module = models.shufflenet_v2_x0_5(num_classes=8)
    average = torch.optim.swa_utils.AveragedModel(module)
    torch.save({"state_dict": module.state_dict(), "state_dict_ema": average.state_dict()}, path)
    return "torchvision:shufflenet_v2_x0_5"


def lightning(path: Path) -> str:
    module = models.resnet18(num_classes=10)
    state = {f"model.{name}": tensor for name, tensor in module.state_dict().items()}
    content = {
        "epoch": 3,
        "global_step": 900,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**state, "criterion.weight": torch.ones(10)},
        "optimizer_states": [],
        "hyper_parameters": {"lr": 0.1, "num_classes": 10},
    }
    torch.save(content, path)
    return "torchvision:resnet18"


def exported(path: Path) -> str:
    module = models.mnasnet0_5(num_classes=6).eval()
    images = torch.randn(2, 3, 64, 64)
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(module, (images,), dynamic_shapes=(batch,))
    torch.export.save(program, path)
    return "torchvision:mnasnet0_5"


def scripted(path: Path) -> str:
    torch.jit.script(models.squeezenet1_1(num_classes=9).eval()).save(path)
    return "torchvision:squeezenet1_1"


def safetensors(path: Path) -> str:
    module = timm.create_model("vit_tiny_patch16_224", num_classes=11)
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
    return "timm:vit_tiny_patch16_224"


def onnx(path: Path) -> str:
    module = models.regnet_x_400mf(num_classes=4).eval()
    batch = {0: torch.export.Dim("batch")}
    torch.onnx.export(
        module, (torch.randn(2, 3, 64, 64),), path, dynamic_shapes=(batch,), verbose=False
    )
    return "torchvision:regnet_x_400mf"


WAYS = {
    "state-dict.pt": state_dict,
    "wrapped.pth": wrapped,
    "data-parallel.pth": data_parallel,
    "compiled.pt": compiled,
    "ema.pth": averaged,
    "lightning.ckpt": lightning,
    "exported.pt2": exported,
    "scripted.pt": scripted,
    "safe.safetensors": safetensors,
    "model.onnx": onnx,
}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")  # TorchScript is deprecated; people have such files
    for name, save in WAYS.items():
        print(f"{name:18} {save(folder / name)}", flush=True)


if __name__ == "__main__":
    main()
