"""A classifier of transformers from its configuration, with weights that were read here."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgekd.distill.teachers.logits import LogitsAlone
from edgekd.errors import InputFileError, UsageError


def build_classifier(config: Path, state: Mapping[str, Tensor], *, name: str) -> nn.Module:
    """The network that `config.json` describes, by transformers' own code and renamings; nothing is fetched.

    Args:
        config: the file; code that it names is not run.
        state: weights by the names of the file.
        name: of transformers' class.

    Returns:
        (N, C, H, W) -> logits (N, K).

    Raises:
        UsageError: transformers is not installed.
        InputFileError: transformers knows no such classifier, or the weights are not its.
    """
    try:
        from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, AutoConfig
    except ImportError as error:
        raise UsageError(
            f"{config}: a network of transformers, which is not installed: pip install 'edgekd[transformers]'. Or give a "
            "factory of your own with --arch path/to/file.py:factory."
        ) from error
    with _quiet():
        try:
            described = AutoConfig.from_pretrained(
                str(config.parent), local_files_only=True, trust_remote_code=False
            )
            known: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(described)]
            # Several of one configuration: DeiT's with and without a teacher
            several = known if isinstance(known, tuple) else (known,)
            classifier: Any = next(each for each in several if each.__name__ == name)
            module, found = classifier.from_pretrained(
                None, config=described, state_dict=dict(state), output_loading_info=True
            )
        except StopIteration as error:
            raise InputFileError(
                f"{config}: names {name[:60]}, which is no classifier of its configuration in transformers."
            ) from error
        except Exception as error:
            # Its configurations run code of their own, which may raise anything
            raise InputFileError(
                f"{config}: transformers cannot build it: {type(error).__name__}: {str(error)[:300]}"
            ) from error
    wrong = {
        kind: sorted(map(str, found[f"{kind}_keys"]))
        for kind in ("missing", "unexpected", "mismatched")
        if found[f"{kind}_keys"]
    }
    if wrong:
        told = "; ".join(f"{kind}: {', '.join(names[:3])}" for kind, names in wrong.items())
        raise InputFileError(
            f"{config}: the weights beside it are not those of {type(module).__name__} ({told})."
        )
    return LogitsAlone(module, "logits")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without its advice and its progress bars."""
    from transformers.utils import logging as advice

    level = advice.get_verbosity()
    advice.set_verbosity(logging.CRITICAL)
    advice.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        advice.set_verbosity(level)
        advice.enable_progress_bar()  # type: ignore[no-untyped-call]
