"""What `--help` and the shell's completion say beyond the options: examples and names.

Light on purpose: completion answers between two keystrokes and must not bring a framework.
"""

import contextlib
from collections.abc import Iterable
from typing import Final

import typer

from edgekd.errors import EdgekdError
from edgekd.options import CONDENSE_STEPS

# By command, as it is typed; lines of at most 76 characters, so that 80 columns do not fold them.
EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "compress": (
        "edgekd compress teacher.pt --target jetson",
        "edgekd compress teacher.pt -t jetson --steps 2600 --eval test.npz --out b",
        "edgekd compress t.pt -t jetson --input 1x28x28 --mean 0.1307 --std 0.3081",
        "edgekd compress teacher.pt -t jetson --budget edgekd.toml --junit gate.xml",
    ),
    "distill": (
        "edgekd distill teacher.pt --minutes 15 --out student",
        "edgekd distill teacher.pt --student resnet8-w8 --steps 2600",
        "edgekd distill teacher.pt --images images --steps 2600",
        "edgekd distill teacher.pt --condensed cifar10-10.npz --minutes 30",
        "edgekd distill teacher.pt --recipe pseudo-replay --faithful --dry-run",
    ),
    "recipes list": ("edgekd recipes list",),
    "recipes show": (
        "edgekd recipes show pool",
        "edgekd recipes show pseudo-replay --faithful --json",
    ),
    "synthesize": (
        "edgekd synthesize teacher.pt --count 5000 --out images",
        "edgekd synthesize teacher.pt --count 10000 --out images --extend",
    ),
    "condense": (
        "edgekd condense cifar10 --per-class 10 --out cifar10-10.npz",
        "edgekd condense data.npz --per-class 1 --method herding --json",
    ),
    "export": (
        "edgekd export student --target jetson --out models",
        "edgekd export bundle -t raspberry-pi-5 --out models-pi",
        "edgekd export --teacher teacher.pt --images images -t jetson",
    ),
    "export check": (
        "edgekd export check model.onnx",
        "edgekd export check model.onnx --target jetson@jp5.1",
    ),
    "search": (
        "edgekd search teacher.pt --target x86 --limit size-kib=120 --minutes 20",
        "edgekd search t.pt -t jetson --budget edgekd.toml --images set --steps 900",
        "edgekd search t.pt -t x86 --candidate resnet8-w8 --candidate resnet8-w8@20",
    ),
    "gate": (
        "edgekd gate bundle --budget edgekd.toml --junit gate.xml",
        "edgekd gate bundle bench.json --limit latency-p50-ms=5 -t jetson",
    ),
    "config show": ("edgekd config show --budget edgekd.toml --limit size-kib=200",),
    "bench": (
        "edgekd bench bundle/model-fp32.onnx",
        "edgekd bench a.onnx b.onnx --device ssh://nvidia@jetson -t jetson",
        "edgekd bench bundle --fleet fleet.toml --out bench.json",
        "edgekd bench model.onnx --offline-kit kit",
        "edgekd bench model.onnx --energy-sensor none --out waiting.json",
    ),
    "bench meter": ('edgekd bench meter waiting.json log.csv --scope "5 V input" --out b.json',),
    "bench compare": ("edgekd bench compare old.json new.json",),
    "bench estimate": ("edgekd bench estimate model.onnx --target jetson --precision fp16",),
    "bench probe": ("edgekd bench probe --device ssh://nvidia@192.168.55.1 --target jetson",),
    "bench import": ("edgekd bench import kit/result.json",),
    "bench clean": ("edgekd bench clean --device ssh://nvidia@192.168.55.1",),
    "teacher describe": (
        "edgekd teacher describe teacher.pt",
        "edgekd teacher describe run.ckpt --weights ema --json",
    ),
    "teacher check": ("edgekd teacher check teacher.pt --eval test.npz",),
    "targets list": ("edgekd targets list",),
    "targets show": ("edgekd targets show jetson", "edgekd targets show ./board.toml"),
    "bundle verify": (
        "edgekd bundle verify bundle",
        "edgekd bundle verify bundle.tar --key release.pub",
    ),
    "bundle inspect": ("edgekd bundle inspect bundle", "edgekd bundle inspect bundle --json"),
    "bundle report": ("edgekd bundle report bundle --out report.html",),
    "bundle pack": (
        "edgekd bundle pack bundle",
        "edgekd bundle pack bundle --out bundle.tar.zst",
    ),
    "bundle unpack": ("edgekd bundle unpack bundle.tar --out bundle --key release.pub",),
    "bundle sign": (
        "edgekd bundle sign bundle.tar --key release.pem",
        "edgekd bundle sign bundle --key 'pkcs11:token=T;object=K?module-path=P.so'",
    ),
    "bundle diff": ("edgekd bundle diff bundle-1.0.tar bundle-1.1.tar",),
    "bundle push": ("edgekd bundle push bundle.tar registry.example.com/mnist:1.0",),
    "bundle pull": ("edgekd bundle pull registry.example.com/mnist:1.0 --out bundle.tar",),
    "doctor": ("edgekd doctor", "edgekd doctor --json > doctor.json"),
    "eval": ("edgekd eval teacher.pt bundle/model-int8.onnx --eval test.npz",),
}

_FIRST: Final = ("edgekd doctor", "edgekd compress teacher.pt --target jetson")

# `edgekd.distill.models.architectures.NAMES`, which brings torch; a test compares.
STUDENTS: Final[tuple[str, ...]] = (
    "auto",
    "lenet5-half",
    "lenet5",
    *(f"resnet{depth}-w{width}" for depth in (8, 14, 20, 32, 44, 56) for width in (4, 8, 12)),
    *(f"resnet{depth}" for depth in (8, 14, 20, 32, 44, 56)),
    *(f"resnet{depth}a" for depth in (8, 14, 20, 32, 44, 56)),
    *("resnet18-w16", "resnet18-w32", "resnet18", "resnet34"),
    *(f"wrn-{depth}-{factor}" for depth in (16, 28, 40) for factor in (1, 2, 4, 10)),
    "vgg11",
    *(f"mobilenetv2-{factor}" for factor in ("0.25", "0.5", "0.75", "1.0")),
)

# The verb that a group of commands takes where none is typed: `edgekd export STUDENT`.
DEFAULT_VERB: Final = "(default)"


def add_examples(app: typer.Typer, *, above: str = "") -> None:
    """Put the examples of each command, and of each group of them, below its options in `--help`."""
    app.info.epilog = _epilog(_FIRST if not above else _below(above))
    for command in app.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "").replace("_", "-")
        if name == DEFAULT_VERB:
            # Its help is that of the whole group, so it names the other verbs.
            command.epilog = _epilog(EXAMPLES[above], also=_below(above))
        else:
            command.epilog = _epilog(EXAMPLES.get(f"{above} {name}".strip(), ()))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_examples(group.typer_instance, above=f"{above} {group.name}".strip())


def _epilog(lines: Iterable[str], *, also: Iterable[str] = ()) -> str | None:
    found, verbs = list(lines), list(also)
    # The library joins lines that no blank line parts.
    shown = ["Examples:", *found] if found else []
    return "\n\n".join([*shown, *(["Other verbs:", *verbs] if verbs else [])]) or None


def _below(group: str) -> list[str]:
    """The first example of each command of a group."""
    return [lines[0] for name, lines in EXAMPLES.items() if name.startswith(f"{group} ")]


def targets(incomplete: str) -> list[str]:
    """Boards and aliases; after an `@`, what the board runs.

    Bash takes the `@` for the end of a word, and offers nothing after it; zsh and fish do not.
    """
    from edgekd.targets import catalogue

    # Nothing is printed into the line that somebody is typing.
    with contextlib.suppress(EdgekdError):
        board, at, _ = incomplete.partition("@")
        if at:
            software = catalogue.load_target(board).board.software
            return _starting(incomplete, (f"{board}@{name}" for name in software))
        return _starting(incomplete, [*catalogue.target_names(), *catalogue.aliases()])
    return []


def recipes(incomplete: str) -> list[str]:
    """Names of recipes, and auto."""
    return _starting(incomplete, ["auto", *book(incomplete)])


def book(incomplete: str) -> list[str]:
    """Names of recipes."""
    from edgekd.distill.recipes.catalogue import RECIPES

    return _starting(incomplete, RECIPES)


def students(incomplete: str) -> list[str]:
    """Names of networks of ours."""
    return _starting(incomplete, STUDENTS)


def devices(incomplete: str) -> list[str]:
    """Where a run can be."""
    return _starting(incomplete, ("auto", "cpu", "cuda"))


def methods(incomplete: str) -> list[str]:
    """How a data set is condensed."""
    return _starting(incomplete, CONDENSE_STEPS)


def sensors(incomplete: str) -> list[str]:
    """Power sensors, and what stands for a choice among them."""
    from edgekd.bench.sensor_names import AUTO, NONE, SENSORS

    return _starting(incomplete, (AUTO, *SENSORS, NONE))


def embeddable(incomplete: str) -> list[str]:
    """What `--embed` puts into a graph."""
    from edgekd.export.pre_post_processing import PARTS

    return _starting(incomplete, PARTS)


def complete_keep_by(incomplete: str) -> list[str]:
    """What a share of a network can be of."""
    from edgekd.export.sensitivity import BY

    return _starting(incomplete, BY)


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
