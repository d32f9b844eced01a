"""What a teacher file is, found out without running it and without a framework where that can be.

`inspect_teacher` answers for the command that describes a teacher and for the one that loads it, so
that both say the same.
"""

from pathlib import Path

from edgekd.distill.teachers import hugging_face
from edgekd.distill.teachers.checkpoints import checkpoint_contents, file_formats
from edgekd.distill.teachers.inspection.inquiry import Form, Inquiry
from edgekd.distill.teachers.inspection.kinds import Inspection
from edgekd.distill.teachers.inspection.programs import inspect_program
from edgekd.distill.teachers.metadata import TeacherOptions, merge_metadata


def inspect_teacher(path: Path, options: TeacherOptions) -> Inspection:
    """Find out what a file is, or the weights in a folder that `save_pretrained` wrote.

    Raises:
        InputFileError: it cannot be read, is refused, or is no classifier of images.
        UsageError: an option names what is not there.
    """
    path = hugging_face.weights_in(path)
    trusted = bool(options.trust_pickle)
    file = file_formats.open_file(path, trusted=trusted)
    if file.format in {"pt2", "onnx"}:
        return inspect_program(path, "pt2" if file.format == "pt2" else "onnx", options)
    if file.content is None and trusted:
        metadata = merge_metadata(path, {}, options)
        return Inquiry(path, file.format, "module", metadata).finish()
    checkpoint = checkpoint_contents.examine(file)
    folder = hugging_face.read_folder(path)
    beside = None if folder is None else (folder.origin, folder.said)
    metadata = merge_metadata(path, checkpoint.metadata, options, beside=beside)
    form: Form = "weights"
    if file.format == "torchscript":
        form = "torchscript"
    elif checkpoint.module is not None:
        form = "module"
    inquiry = Inquiry(path, file.format, form, metadata, folder)
    inquiry.examine(checkpoint)
    return inquiry.finish()
