"""Folders as `save_pretrained` of transformers and timm's hub write them: `config.json` beside the weights.

Nothing of them is run: they are JSON. What they say of labels and images is a source like a TOML file, and comes after it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.errors import InputFileError, UsageError
from edgekd.files import read_text

CONFIG: Final = "config.json"
PREPROCESSOR: Final = "preprocessor_config.json"
WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
_CLASSIFIER: Final = "ForImageClassification"
_TIMM_WRAPPER: Final = "TimmWrapperForImageClassification"
# Divides by the standard deviation once more, unless `include_top` is false
_TWICE: Final = "EfficientNetImageProcessor"
_POOLS: Final = frozenset({"max", "avgmax", "catavgmax"})
_PIXEL: Final = 1 / 255
_LARGEST: Final = 8 << 20  # bytes
_CLASSES: Final = 100_000


@dataclass(frozen=True, kw_only=True)
class HuggingFaceFolder:
    """What the JSON beside the weights says."""

    config: Path
    # transformers' class of the network; None: timm's
    classifier: str | None
    # timm's name of it, where it is one of timm's
    timm_name: str | None
    # Labels, and how images are made
    said: TeacherOptions
    # That change timm's network without a trace in its weights
    arguments: Mapping[str, object]

    @property
    def origin(self) -> str:
        """Where labels and images are said, for people."""
        apart = self.timm_name is None and self.config.with_name(PREPROCESSOR).is_file()
        return f"{CONFIG} and {PREPROCESSOR}" if apart else CONFIG

    def require_plain(self) -> None:
        """Check that the name of timm's network says which it is.

        Raises:
            UsageError: it was made with arguments; a factory that has them is in the message.
        """
        if not self.arguments:
            return
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        raise UsageError(
            f"{self.config}: its network is made with {given}, which leaves no trace in weights. Write a factory, "
            f"return timm.create_model({self.timm_name!r}, num_classes={self.said.classes}, {given}), and give it with "
            "--arch path/to/file.py:factory."
        )


def weights_in(path: Path) -> Path:
    """The weights of a folder; a file is what it is.

    Raises:
        InputFileError: the folder has none, or its weights are in several files.
    """
    if not path.is_dir():
        return path
    found = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if found is not None:
        return found
    parts = next(iter(sorted(path.glob("*.index.json"))), None)
    if parts is not None:
        raise InputFileError(
            f"{path}: the weights are in several files ({parts.name}); save them as one: "
            "model.save_pretrained(FOLDER, max_shard_size='100GB')."
        )
    raise InputFileError(
        f"{path}: a folder without {' or '.join(WEIGHTS)}. Give the file with the weights, or a folder that "
        "save_pretrained wrote."
    )


def read_folder(weights: Path) -> HuggingFaceFolder | None:
    """What is said beside a file of weights; None where no `config.json` of a classifier is.

    Args:
        weights: the file.

    Raises:
        InputFileError: a file is no JSON, or the network is for several labels per image or for BGR images.
    """
    path = weights.with_name(CONFIG)
    if weights.name not in WEIGHTS or not path.is_file():
        return None
    config = _read(path)
    named = config.get("architectures")
    classes = [str(each) for each in named] if isinstance(named, list) else []
    classifier = next((each for each in classes if _CLASSIFIER in each), None)
    timm_name = config.get("architecture")
    timm_name = timm_name if isinstance(timm_name, str) else None
    if classifier is None and timm_name is None:
        return None
    problem = config.get("problem_type")
    if problem not in {None, "single_label_classification"}:
        raise InputFileError(
            f"{path}: refused, problem_type is {str(problem)[:40]}. edgekd compresses classifiers of one class per image."
        )
    timm = timm_name is not None and classifier in {None, _TIMM_WRAPPER}
    names, count = _labels(config)
    images = _images_of_timm(config) if timm else _images(path.with_name(PREPROCESSOR), config)
    return HuggingFaceFolder(
        config=path,
        classifier=None if timm else classifier,
        timm_name=timm_name if timm else None,
        said=TeacherOptions(classes=count, class_names=names, **images),
        arguments=_arguments(config) if timm else {},
    )


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST:
        raise InputFileError(f"{path}: {path.stat().st_size:,} bytes, which no configuration has.")
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputFileError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(found, dict):
        raise InputFileError(f"{path}: not a JSON object.")
    return found


def _labels(config: dict[str, Any]) -> tuple[tuple[str, ...] | None, int | None]:
    """Names in the order of the logits, and how many; made-up ones (LABEL_0) are none."""
    listed = config.get("label_names")
    if isinstance(listed, list) and all(isinstance(each, str) for each in listed):
        return tuple(listed), len(listed)
    table = config.get("id2label")
    if isinstance(table, dict) and 0 < len(table) <= _CLASSES:
        names = [table.get(str(number)) for number in range(len(table))]
        if all(isinstance(each, str) for each in names):
            made_up = all(name == f"LABEL_{number}" for number, name in enumerate(names))
            return None if made_up else tuple(map(str, names)), len(names)
    count = config.get("num_labels", config.get("num_classes"))
    return None, count if type(count) is int and 0 < count <= _CLASSES else None


def _arguments(config: dict[str, Any]) -> dict[str, object]:
    """What timm's network is made with beside its name; the size of its images is said otherwise."""
    given = config.get("model_args")
    found = {
        str(name): value
        for name, value in (given.items() if isinstance(given, dict) else ())
        if name not in {"img_size", "num_classes", "in_chans", "pretrained"}
    }
    pool = config.get("global_pool")
    return found | ({"global_pool": pool} if pool in _POOLS else {})


def _images_of_timm(config: dict[str, Any]) -> dict[str, Any]:
    found = config.get("pretrained_cfg")
    found = found if isinstance(found, dict) else {}
    size = found.get("input_size")
    shape = None
    if isinstance(size, list) and len(size) == 3 and all(type(each) is int for each in size):
        shape = (size[0], size[1], size[2])
    return {
        "input": shape,
        "mean": _numbers(found.get("mean")),
        "std": _numbers(found.get("std")),
    }


def _images(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Of transformers' image processor."""
    if not path.is_file():
        return {}
    found = _read(path)
    if found.get("do_flip_channel_order") is True:
        raise InputFileError(
            f"{path}: refused, its images are BGR (do_flip_channel_order) and edgekd makes RGB. Write a factory that turns "
            "the channels around, and give it with --arch path/to/file.py:factory."
        )
    channels = config.get("num_channels", 3)
    cropped = found.get("do_center_crop") is True
    side = _side(found.get("crop_size") if cropped else found.get("size"))
    if side is None and not cropped:
        side = _side(config.get("image_size"))
    images: dict[str, Any] = {}
    if side is not None and type(channels) is int and channels > 0:
        images["input"] = (channels, *side)
    scaled = found.get("do_rescale", True) is not False
    factor = found.get("rescale_factor", _PIXEL) if scaled else _PIXEL
    if not isinstance(factor, int | float) or abs(factor - _PIXEL) > 1e-6:
        # Its mean and deviation are of other values than pixels of 0..1
        return images
    kind = str(found.get("image_processor_type", found.get("feature_extractor_type", "")))
    kind = kind.removesuffix("Fast")
    normalised = found.get("do_normalize", True) is not False
    mean, std = _numbers(found.get("image_mean")), _numbers(found.get("image_std"))
    if not normalised:
        mean, std = (0.0,), (1.0,)
    elif found.get("include_top", kind == _TWICE) is True and kind == _TWICE and std is not None:
        std = tuple(value * value for value in std)
    if not scaled and mean is not None and std is not None:
        # Of pixels of 0..255
        mean, std = (tuple(value / 255 for value in values) for values in (mean, std))
    return images | {"mean": mean, "std": std}


def _side(size: object) -> tuple[int, int] | None:
    """Height and width of a processor's size, in the forms that are in use."""
    if type(size) is int:
        return size, size
    if not isinstance(size, dict):
        return None
    height, width = size.get("height"), size.get("width")
    if height is None and width is None:
        height = width = size.get("shortest_edge")
    return (height, width) if type(height) is int and type(width) is int else None


def _numbers(values: object) -> tuple[float, ...] | None:
    if not isinstance(values, list) or not values:
        return None
    if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in values):
        return None
    return tuple(float(each) for each in values)
