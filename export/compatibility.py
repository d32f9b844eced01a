"""Whether a board's software takes a graph, and if not, why. Works on any ONNX file.

Written after onnx-tensorrt's `docs/operators.md` (see `tensorrt_operators`) and TensorRT's documentation of
quantised types and strong typing. Operators that stand in none of its tables are reported as unknown
to this check, never passed.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError, Message

from edgekd.errors import EdgekdError, IncompatibleError, InputFileError
from edgekd.export import tensorrt_quantisation, tensorrt_rules
from edgekd.export.external_data import missing_data, tensors_of
from edgekd.export.parity import require_plain, require_size, session
from edgekd.export.tensorrt_operators import version_of
from edgekd.export.tensorrt_restrictions import GROUPS_BY_CHANNEL_OPSET
from edgekd.export.tensorrt_rules import QUANTISING, Violation
from edgekd.export.tensorrt_types import kinds_of, shapes_of
from edgekd.export.trial_run import run_once
from edgekd.export.weightless_graph import infer_shapes, is_large, is_whole, outline
from edgekd.records import Software, is_rtx

BUILD_PATH: Final = "build path"
# In texts made for people, two names after a slash are a path; elsewhere only well-known folders count. Names of nodes
# and tensors are those of modules, and one may be called root or data (TorchScript: "/root/0/Conv"): only a file is a path.
_PATH_IN_TEXT: Final = re.compile(
    r"(?<![\w.:/])/[\w.@+-]+(?:/[\w.@+-]+)+|[A-Za-z]:\\[\w.\\-]+|\\\\\w+\\\w+|file:/+[\w./-]+"
)
_PATH_ANYWHERE: Final = re.compile(
    rb"(?:/(?:home|root|usr|work|tmp|opt|Users|mnt|data)/|[A-Za-z]:\\)[\w.\\/-]+"
)
_FILE_AS_NAME: Final = re.compile(
    r"(?:/|[A-Za-z]:\\)[\w.\\/ -]+\.(?:py|onnx|pth?|ckpt|safetensors)(?=$|[\s\"':,])"
)


def check_model(path: Path, software: Software) -> tuple[Violation, ...]:
    """All reasons why `software` would refuse or misread this file, and what harms it; empty when there is none.

    Raises:
        InputFileError: not an ONNX model.
        UsageError: the software's TensorRT version makes no sense.
    """
    return next(check_each(path, [software]))


def check_each(
    path: Path, softwares: Iterable[Software], *, run: bool = False
) -> Iterator[tuple[Violation, ...]]:
    """The same for several, in their order; what no software decides is looked at once.

    Args:
        path: of the file.
        softwares: that are asked.
        run: whether a file that ONNX Runtime starts and fails to run is refused for TensorRT as well: its
            weights do not fit together then.

    Raises:
        InputFileError: not an ONNX model.
        UsageError: a software's TensorRT version makes no sense.
    """
    yield from _judge(read_graph(path), path, softwares, run=run)


def _judge(
    model: onnx.ModelProto,
    source: Path | bytes,
    softwares: Iterable[Software],
    *,
    run: bool = False,
) -> Iterator[tuple[Violation, ...]]:
    folder = source.parent if isinstance(source, Path) else Path()
    elsewhere = tuple(_external_data(model, folder))
    # With the values elsewhere, the other rules have nothing to look at.
    common = elsewhere or (
        *_standard(model),
        *_input_shapes(model),
        *_paths(model),
        *tensorrt_rules.weights(model),
    )
    # From a graph that is not valid nothing follows, and attributes may be anything.
    valid = all(violation.rule != "checker" for violation in common) and not elsewhere
    inferred = infer_shapes(model) if valid else onnx.GraphProto()
    kinds, shapes = kinds_of(model, inferred), shapes_of(inferred)
    # Once, and only where somebody asks
    tried = functools.cache(lambda: _run_source(source))
    for software in softwares:
        if elsewhere:
            yield elsewhere
            continue
        found = (
            *common,
            *_of_software(
                tried, model, software, kinds, shapes if valid else None, sound=not common
            ),
        )
        if run and valid and software.runtime == "tensorrt" and not any(e.refuses for e in found):
            found = (*found, *(each for each in tried() if each.rule == "run"))
        yield found


def _of_software(
    tried: Callable[[], tuple[Violation, ...]],
    model: onnx.ModelProto,
    software: Software,
    kinds: Mapping[str, int],
    shapes: Mapping[str, tuple[int | None, ...]] | None,
    *,
    sound: bool,
) -> Iterator[Violation]:
    """What one software makes of a graph; `shapes` is None where the graph is not valid."""
    lacking = tuple(_int8(model, software))
    yield from lacking
    if software.runtime != "tensorrt":
        if sound and not lacking:
            yield from tried()
        return
    version = version_of(software)
    yield from tensorrt_rules.operators(model, version)
    yield from tensorrt_rules.opset(model, version)
    yield from tensorrt_rules.inputs(model, version)
    if shapes is not None:
        yield from tensorrt_rules.types(model, kinds, version)
        yield from tensorrt_rules.restrictions(model, kinds, shapes, version)
    if is_rtx(software.tensorrt):
        yield from tensorrt_rules.lacking_in_rtx(model, kinds)
    yield from tensorrt_quantisation.quantisation(model, kinds, version)


def require_legal(path: Path, software: Software) -> None:
    """Raise unless `software` takes this file.

    Raises:
        InputFileError: not an ONNX model.
        IncompatibleError: with every reason.
    """
    _require(check_model(path, software), software, name=path.name)


def require_legal_model(
    model: onnx.ModelProto, software: Software, *, data: bytes, name: str
) -> None:
    """The same for a model in memory.

    Args:
        model: that was just made.
        software: that must take it.
        data: the model as bytes.
        name: what messages call it.

    Raises:
        IncompatibleError: with every reason.
    """
    _require(next(_judge(model, data, [software])), software, name=name)


def _require(found: tuple[Violation, ...], software: Software, *, name: str) -> None:
    # A path of this machine harms nobody who checks a file, and has no place in one that is made here.
    refusing = [each for each in found if each.refuses or each.rule == BUILD_PATH]
    if refusing:
        reasons = "\n  ".join(str(violation) for violation in refusing)
        raise IncompatibleError(f"{name} is not legal for {software.name}:\n  {reasons}")


def read_graph(path: Path) -> onnx.ModelProto:
    """An ONNX model whose weights may lie elsewhere.

    Raises:
        InputFileError: it is no plain file, cannot be read, is empty or too large, or its names are no text.
    """
    require_plain(path)
    require_size(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read: {error.strerror}.") from error
    except DecodeError as error:
        raise InputFileError(f"{path}: not a readable ONNX model ({error}).") from error
    if not model.graph.node:
        raise InputFileError(f"{path}: an ONNX model without a single operator; is it cut short?")
    # Protobuf hands out bytes where text is not UTF-8, and onnx then fails wherever it meets them.
    if any(isinstance(text, bytes) for text in _texts(model)):
        raise InputFileError(f"{path}: names that are not UTF-8; the file is damaged.")
    return model


def _texts(message: Message) -> Iterator[object]:
    """Every text of a message and of those within it, whose depth the parser limits."""
    for kind, value in message.ListFields():
        # Repeated, or one
        inner = value if hasattr(value, "extend") else (value,)
        if kind.type == kind.TYPE_STRING:
            yield from inner
        elif kind.type == kind.TYPE_MESSAGE:
            for each in inner:
                yield from _texts(each)


def _annotations(model: onnx.ModelProto) -> Iterator[str]:
    """Texts that no runtime needs."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    for owner in (model, graph, *graph.node, *values, *graph.initializer, *model.functions):
        yield owner.doc_string
        for entry in owner.metadata_props:
            yield from (entry.key, entry.value)
    yield from (model.producer_name, model.producer_version)


def is_external(model: onnx.ModelProto) -> bool:
    """Whether values of a model lie in another file."""
    return any(_external_data(model, Path()))


def _external_data(model: onnx.ModelProto, folder: Path) -> Iterator[Violation]:
    lacking = missing_data(model, folder)
    for tensor in tensors_of(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield Violation(
                rule="external data",
                where=tensor.name,
                message="the weights are in another file"
                + ("" if lacking is None else f", {lacking}, which is not beside it"),
                advice="save with external_data=False",
            )
            return


def _standard(model: onnx.ModelProto) -> Iterator[Violation]:
    large = filter(is_large, model.graph.initializer)
    # The checker counts the bytes of weights, and copies all of them to do so.
    seen = outline(model) if all(map(is_whole, large)) else model
    try:
        onnx.checker.check_model(_replace_deprecated(seen), full_check=True)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        # What the bindings make of a damaged model: a message that is no text, types without name.
        UnicodeDecodeError,
        ValueError,
        TypeError,
    ) as error:
        lines = str(error).strip().splitlines()
        yield Violation(
            rule="checker",
            where="model",
            message=lines[0] if lines else "invalid model",
            advice="export again; is the file damaged?",
        )


def _replace_deprecated(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without group normalisations of opset 18, which the checker calls deprecated.

    They are valid there and TensorRT reads them; under a domain of their own the checker lets them be.
    """
    valid = 18 <= tensorrt_rules.opset_of(model) < GROUPS_BY_CHANNEL_OPSET
    nodes = enumerate(model.graph.node)
    old = [place for place, node in nodes if valid and node.op_type == "GroupNormalization"]
    if not old:
        return model
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    for place in old:
        copied.graph.node[place].domain = "deprecated"
    copied.opset_import.append(onnx.helper.make_opsetid("deprecated", 1))
    return copied


def _input_shapes(model: onnx.ModelProto) -> Iterator[Violation]:
    # Are inputs too before IR 4
    constants = {entry.name for entry in model.graph.initializer}
    for entry in model.graph.input:
        if entry.name in constants:
            continue
        kind = entry.type.tensor_type
        open_dims = [
            d.dim_param or "?"
            for d in kind.shape.dim[1:]
            if not d.HasField("dim_value") or d.dim_value < 0
        ]
        if not kind.HasField("shape"):
            open_dims = ["all"]
        if open_dims:
            yield Violation(
                rule="dynamic dimension",
                where=entry.name,
                message=f"{', '.join(open_dims)}: only the batch may be dynamic",
                advice="export with a fixed input size",
            )


def _paths(model: onnx.ModelProto) -> Iterator[Violation]:
    bare = outline(model)
    # Weights may look like anything
    del bare.graph.initializer[:]
    names = [*_take_names(bare.graph), *(each for f in bare.functions for each in _take_names(f))]
    anywhere = _PATH_ANYWHERE.search(bare.SerializeToString())
    in_text = next(filter(None, map(_PATH_IN_TEXT.search, _annotations(model))), None)
    in_text = in_text or next(filter(None, map(_FILE_AS_NAME.search, names)), None)
    found = in_text[0] if in_text else anywhere[0].decode(errors="replace") if anywhere else None
    if found is not None:
        yield Violation(
            rule=BUILD_PATH,
            where="metadata",
            message=f"{found!r} is a path of the machine that built it",
            advice="strip metadata_props and doc strings before it is given away",
            refuses=False,
        )


def _take_names(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[str]:
    """Names of nodes and tensors, those of graphs inside of nodes too; they are gone afterwards."""
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        node.ClearField("name")
        node.ClearField("input")
        node.ClearField("output")
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _take_names(inner)
    if isinstance(graph, onnx.FunctionProto):
        yield from (*graph.input, *graph.output)
        graph.ClearField("input")
        graph.ClearField("output")
        return
    for entry in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        yield entry.name
        entry.ClearField("name")


def _int8(model: onnx.ModelProto, software: Software) -> Iterator[Violation]:
    if software.int8:
        return
    for node in model.graph.node:
        if node.op_type in QUANTISING:
            yield Violation(
                rule="no INT8",
                where=node.name,
                message=f"{software.name} on this board runs no INT8",
                advice="ship FP32 or FP16",
            )
            return


def _run_source(source: Path | bytes) -> tuple[Violation, ...]:
    """What stops ONNX Runtime. A model in memory was made here, and is run on images for its parity."""
    if isinstance(source, Path):
        return run_once(source)
    try:
        session(source)
    except EdgekdError as error:
        found = Violation(
            rule="session",
            where="model",
            message=str(error).strip().splitlines()[0],
            advice="export again for this target",
        )
        return (found,)
    return ()
