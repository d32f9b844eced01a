"""What has to be asked of how images are fed, and what should be said of it."""

from pathlib import Path
from typing import Final

from edgekd.distill.teachers import respelling
from edgekd.distill.teachers.architecture_recognition import PublishedPreprocessing
from edgekd.distill.teachers.checkpoints.checkpoint_contents import WeightSet
from edgekd.distill.teachers.inspection.factory_text import FACTORY, factory_path, factory_text
from edgekd.distill.teachers.inspection.kinds import OpenQuestion, SourcedValue
from edgekd.distill.teachers.metadata import Metadata
from edgekd.errors import UsageError


class Clarifications:
    """What has to be asked, and what should be said, of how images are fed."""

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata
        self.options = metadata.options
        self.questions: list[OpenQuestion] = []
        self.notes: list[str] = []

    def which(self, *choices: tuple[str, str]) -> None:
        """Ask which of networks that have all names and shapes of the file; `teacher check` tries each."""
        self._ask(
            "--arch NAME",
            "(names and shapes fit networks that answer differently; which was trained? `edgekd teacher check` tries each on "
            "labelled images)",
            list(choices),
        )

    def network(self, path: Path, weights: WeightSet) -> str | None:
        """Ask which network weights are of.

        Returns:
            The text of a factory to look through, where all but the head is known.
        """
        text = "(no built-in network, and none of timm or torchvision, has these names and shapes"
        body, written = respelling.find_body(weights), None
        if body is not None:
            where = f" below {body.prefix}{body.below}" if body.below else ""
            text += f"; all but the head is {', '.join(body.members[:3])}{where}: write a factory that puts your head on it"
            written = factory_text(path, body)
        named = f"{factory_path(path).name}:{FACTORY}"
        offered = [(named, "`edgekd teacher describe` writes it, to look through")]
        self._ask(
            "--arch NAME", f"{text}), or --arch path/to/file.py:factory", offered if written else []
        )
        return written

    def input(
        self,
        known: PublishedPreprocessing | None,
        *,
        channels: int | None,
        origin: str,
        anew: bool = False,
    ) -> SourcedValue | None:
        """Channels, height and width: said, or the library's where its weights agree.

        Args:
            known: what the library says of its weights.
            channels: of the first layer.
            origin: the library, in words.
            anew: these are other weights than the library's, whose values are an offer then.
        """
        if self.options.input is not None:
            return SourcedValue(value=self.options.input, origin=self.metadata.origin)
        if known is None:
            self._ask(
                f"--input {channels or 'C'}xHxW",
                "(channels, height and width of the images it was trained on)",
            )
            return None
        sizes = [f"{shape[0]}x{shape[1]}x{shape[2]}" for shape in known.inputs]
        if anew:
            self._ask("--input CxHxW", _ANEW, [(size, _OFFERED) for size in sizes])
            return None
        if len(known.inputs) > 1:
            self._ask("--input CxHxW", "(published weights differ)", [(size, "") for size in sizes])
            return None
        if known.others:
            others = ", ".join(f"{shape[1]}x{shape[2]}" for shape in known.others)
            self.notes.append(
                f"other published weights of this network take {others}: --input, if it was trained so"
            )
        return SourcedValue(value=known.inputs[0], origin=origin)

    def normalisation(
        self, known: PublishedPreprocessing | None, origin: str, *, anew: bool = False
    ) -> tuple[SourcedValue | None, SourcedValue | None]:
        """Mean and standard deviation, likewise.

        Raises:
            UsageError: they are of pixels of 0..255.
        """
        mean, std = self.options.mean, self.options.std
        _refuse_bytes(mean, std)
        pairs = known.normalisations if known is not None else ()
        if anew and pairs and mean is None and std is None:
            offered = [
                (_pair(*pair), f"{_COMMON.get(pair, '')}, {_OFFERED}".lstrip(", "))
                for pair in pairs
            ]
            self._ask("--mean M,... --std S,...", _ANEW, offered)
            return None, None
        if len(pairs) > 1 and mean is None and std is None:
            self._ask(
                "--mean M,... --std S,...",
                "(published weights differ)",
                [(_pair(*pair), _COMMON.get(pair, "")) for pair in pairs],
            )
            return None, None
        words = "(what is subtracted from 0..1 pixels, one value per channel)"
        return (
            self._resolve_values("--mean M,...", words, mean, [pair[0] for pair in pairs], origin),
            self._resolve_values(
                "--std S,...",
                "(what they are divided by)",
                std,
                [pair[1] for pair in pairs],
                origin,
            ),
        )

    def _resolve_values(
        self,
        option: str,
        words: str,
        stated: tuple[float, ...] | None,
        known: list[tuple[float, ...]],
        origin: str,
    ) -> SourcedValue | None:
        if stated is not None:
            return SourcedValue(value=stated, origin=self.metadata.origin)
        if len(set(known)) == 1:
            return SourcedValue(value=known[0], origin=origin)
        self._ask(option, words)
        return None

    def _ask(self, option: str, text: str, choices: list[tuple[str, str]] | None = None) -> None:
        self.questions.append(OpenQuestion(option=option, text=text, choices=tuple(choices or ())))


_ANEW: Final = "(its head is not the library's, so it was trained anew; how were its images made?)"
_OFFERED: Final = "as the library's own weights"
# Means of 0..1 pixels are below; some are taken for noise around them
_LARGEST_MEAN: Final = 2.0


def _refuse_bytes(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
    if mean is None or not any(abs(value) > _LARGEST_MEAN for value in mean):
        return
    given = {"mean": mean, "std": std or (1.0,)}
    meant = " ".join(
        f"--{name} {','.join(f'{value / 255:.6g}' for value in values)}"
        for name, values in given.items()
    )
    raise UsageError(
        f"--mean {','.join(f'{value:g}' for value in mean)} is of pixels of 0..255, and edgekd takes it of 0..1. Divided by "
        f"255, with the deviation: {meant}."
    )


_COMMON: Final[dict[tuple[tuple[float, ...], tuple[float, ...]], str]] = {
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)): "ImageNet's",
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)): "pixels to -1..1",
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)): "pixels of 0..1",
    ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)): "CLIP's",
}


def _pair(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    return f"--mean {','.join(map(str, mean))} --std {','.join(map(str, std))}"
