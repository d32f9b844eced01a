"""What published weights were trained with: input, mean and std, as timm and torchvision say."""

import functools
from collections import defaultdict
from collections.abc import Iterator

from edgekd.distill.teachers.fingerprints import Configuration


def configurations_of(name: str) -> Iterator[Configuration]:
    """Input, mean and std of each set of published weights, the library's default first."""
    source, _, bare = name.partition(":")
    if source == "timm":
        yield from _timm_configurations(bare)
        return
    from torchvision import models

    bare = bare.partition("+")[0]
    if bare not in models.list_models(module=models):
        return
    weights = models.get_model_weights(bare)
    default = getattr(weights, "DEFAULT", None)
    for entry in sorted(weights, key=lambda entry: entry is not default):
        transforms = entry.transforms()
        yield Configuration(
            input=(3, transforms.crop_size[0], transforms.crop_size[0]),
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
        )


def _timm_configurations(name: str) -> Iterator[Configuration]:
    from timm.models import get_pretrained_cfg

    for tag in ("", *_timm_tags().get(name, ())):
        found = get_pretrained_cfg(f"{name}.{tag}" if tag else name)
        if found is not None:
            yield Configuration(
                input=tuple(found.input_size), mean=tuple(found.mean), std=tuple(found.std)
            )


@functools.cache
def _timm_tags() -> dict[str, list[str]]:
    import timm
    from timm.models import split_model_name_tag

    tags = defaultdict(list)
    for full in timm.list_pretrained():
        name, tag = split_model_name_tag(full)
        tags[name].append(tag)
    return dict(tags)
