"""Weights from torchvision's, timm's, Keras's and other libraries' files to our own format, and back.

  cnnjax convert FILE --model=NAME --to=OUT.safetensors [--format=cnnjax|torchvision|timm|keras|...] [--overwrite]

FILE may be a folder, or the index of several files. Our own format is OUT.safetensors with OUT.json beside it, which
says the network, how images are prepared for it, and the names of its classes (--classes). It loads without naming
anything, and its network reads RGB images: the first layer of one that reads BGR is turned. The other formats have the
keys of that library, for its load_state_dict or, of keras, by LAYER/VARIABLE; what the library should do with the
images they do not say. akamaster, chenyaofo and kuangliu are forms of networks for CIFAR.

examples:
  cnnjax convert resnet50-11ad3fa6.pth --model=resnet50 --to=resnet50.safetensors --classes=imagenet.txt
  cnnjax convert hf:timm/efficientnet_b0.ra_in1k --model=efficientnet_b0 --to=b0.safetensors
  cnnjax convert resnet50.safetensors --format=timm --to=for_timm.safetensors
"""

import os
import sys
from pathlib import Path
from typing import Any

from cnnjax.cli import weights_flags
from cnnjax.cli.arguments import Arguments
from cnnjax.text import printable

FORMATS = ("cnnjax", "torchvision", "timm", "keras", "akamaster", "chenyaofo", "kuangliu")


def define(arguments: Arguments, argv: list[str]) -> None:
    """Defines the flags.

    Raises:
      UsageError: there is no network of that name.
    """
    arguments.add("to", str, None, "file to write, ending with .safetensors")
    arguments.choice("format", "cnnjax", FORMATS, "of the file to write")
    arguments.add("overwrite", bool, False, "replace files that are there")
    weights_flags.define(arguments, argv)


def run(arguments: Arguments) -> None:
    """Writes the file, or two.

    Raises:
      UsageError: files are not named or cannot be read, the network does not fit, or something is there already.
    """
    from cnnjax import weights
    from cnnjax.cli import pretrained
    from cnnjax.typing import UsageError

    if not arguments.at_most(1):
        raise UsageError("Name the file to convert, or its hf: address.")
    path = _free(arguments)
    found = pretrained.read(arguments, arguments.positional[0])
    if arguments.format != "cnnjax":
        _write(path, weights.export(found.variables, found.model, arguments.format))
    else:
        shape = pretrained.check(found)[0].image_shape if found.preprocessing else found.image_shape
        variables, steps = found.variables, found.preprocessing
        if steps:
            variables, steps = weights.rgb(variables, found.model, steps)
        weights.save(
            path, variables, found.name, preprocessing=steps, class_names=found.class_names,
            image_shape=shape, overwrite=True, **found.fields,
        )  # fmt: skip
        if not found.preprocessing:
            print(
                f"cnnjax convert: the file does not say how images are prepared. {printable(found.problem)}",
                file=sys.stderr,
            )
    print(f"Wrote {printable(str(path))}")


def _free(arguments: Arguments) -> Path:
    """The file to write."""
    from cnnjax.typing import UsageError

    if not arguments.to or not arguments.to.endswith(".safetensors"):
        raise UsageError(f"Give the file to write as --to=OUT.safetensors, not {arguments.to!r}.")
    path = Path(arguments.to)
    written = [path] if arguments.format != "cnnjax" else [path, path.with_suffix(".json")]
    for file in written:
        if file.exists() and not arguments.overwrite:
            raise UsageError(f"{file} is there already. Give another --to, or --overwrite.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}. Make it, or give another --to.")
    return path


def _write(path: Path, tensors: dict[str, Any]) -> None:
    """Whole or not at all. PyTorch's readers ask for the format "pt"."""
    from safetensors.numpy import save

    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(save(tensors, metadata={"format": "pt"}))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
