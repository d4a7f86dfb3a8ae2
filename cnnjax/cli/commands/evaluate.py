"""Error and loss of weights on a dataset: top-1 and top-5 error, mean cross-entropy, images per second.

  cnnjax evaluate --model=NAME --weights=FILE --data=DATA [--split=test] [--batch_size=64] [--json]

DATA is folder:DIR (DIR/train/CLASS/* with DIR/test/CLASS/*, DIR/valid/CLASS/* or both, or DIR/CLASS/*), digits, shapes
or tfds:NAME. Images of folders and of TFDS are read one by one at their own size and prepared as the weights ask;
shapes are drawn at that size. --split=all takes every image. Splits are those that training has with the same --data
flags; of DIR/train with DIR/valid alone, DIR/valid is the test split. Classes are matched by name where the weights
know their names, else by their order.

examples:
  cnnjax evaluate --model=resnet50 --weights=resnet50-11ad3fa6.pth --data=folder:imagenet/val --split=all
  cnnjax evaluate --weights=mine.safetensors --data=digits --json
"""

import dataclasses
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from cnnjax.cli import weights_flags
from cnnjax.cli.arguments import Arguments
from cnnjax.strict_json import encode
from cnnjax.text import printable

if TYPE_CHECKING:
    import numpy as np

    from cnnjax.cli.pretrained import Pretrained
    from cnnjax.data import Pictures
    from cnnjax.weights import Preprocessing

SKIP = "Replace or remove it, or set --data.on_bad_image=skip."
# Of ``DataConfig``, what decides which examples there are; what they look like, the weights' preprocessing decides.
# Written out here, because help imports nothing slow.
DATA_FLAGS: dict[str, tuple[type, str]] = {
    "valid_fraction": (float, "share of the training split that training kept for validation, where there is none"),
    "classes": (tuple, "only examples of these classes, such as 0,3,5, numbered anew in this order"),
    "examples": (int, "training examples of shapes, which also decide how many test examples there are"),
    "difficulty": (float, "of shapes, 0 to 1"),
    "on_bad_image": (str, "an image that cannot be decoded: stop and name it, or skip it"),
}


def define(arguments: Arguments, argv: list[str]) -> None:
    """Defines the flags.

    Raises:
      UsageError: there is no network of that name.
    """
    arguments.add("weights", str, None, "file of the weights, or its hf: address")
    arguments.add("data", str, None, "folder:DIR, digits, shapes or tfds:NAME")
    arguments.choice("split", "test", ["train", "valid", "test", "all"], "which examples")
    arguments.add("batch_size", int, 64, "images computed at once", lower_bound=1)
    for name, (kind, text) in DATA_FLAGS.items():
        arguments.add(f"data.{name}", kind, None, text)
    arguments.add("json", bool, False, "print the numbers as JSON")
    weights_flags.define(arguments, argv)


def run(arguments: Arguments) -> None:
    """Prints the numbers.

    Raises:
      UsageError: the weights or the data are not given, cannot be read or do not fit each other, or the network's
        output for an image is not finite.
    """
    from cnnjax.cli import pretrained
    from cnnjax.tables import show
    from cnnjax.typing import UsageError

    arguments.at_most(0)
    for name, example in (("weights", "FILE"), ("data", "folder:DIR")):
        if not getattr(arguments, name):
            raise UsageError(f"Give --{name}={example}.")
    found = pretrained.read(arguments, arguments.weights)
    steps, classes = pretrained.check(found)
    pictures = _pictures(arguments, steps)
    of_class = matched(pictures.class_names, found.class_names, classes, arguments.data)
    if pictures.carved:
        print(
            f"cnnjax evaluate: {printable(arguments.data)} has no {arguments.split} split: these are the images that "
            "training keeps for it, with the same --data flags. Weights of elsewhere may have been trained on them.",
            file=sys.stderr,
        )  # fmt: skip
    numbers = _evaluated(found, pictures, of_class, steps, arguments.batch_size)
    asked = {"model": found.name, "weights": arguments.weights, "data": arguments.data, "split": arguments.split}
    if arguments.json:
        print(encode({**asked, **numbers}, indent=1))
    else:
        show(_table(asked, numbers), pretrained.described(steps))


def _pictures(arguments: Arguments, steps: "Preprocessing") -> "Pictures":
    from cnnjax.cli.bar import bar
    from cnnjax.data import DataConfig, pictures

    height, width, channels = steps.image_shape
    config = DataConfig(arguments.data, **arguments.given("data."))
    if config.name == "shapes" and height == width == steps.resize:
        config = dataclasses.replace(config, image_size=height, channels=channels)
    with bar(None, "images") as listen:
        return pictures(config, arguments.split, lambda done, total: listen(done, "decoding", total))


def matched(ours: tuple[str, ...], theirs: tuple[str, ...], classes: int, data: str) -> "np.ndarray":
    """The network's class for each class of the data: by name, or by order where no name is the same.

    Data of some of the network's classes only, such as a part of ImageNet, are matched by name.

    Args:
      ours: names of the data's classes.
      theirs: names of the network's classes; may be empty.
      classes: of the network.
      data: what errors call the data.

    Raises:
      UsageError: their numbers differ, some names are the same and others are not, or a name stands for two classes.
    """
    import numpy as np

    from cnnjax.typing import UsageError

    some = 0 < len(ours) < classes and set(ours) <= set(theirs)
    if len(ours) != classes and not some:
        raise UsageError(f"{data} has {len(ours)} classes, the weights {classes}. {_remedy(ours, theirs, classes)}")
    common = set(ours) & set(theirs)
    if not common:
        if theirs:
            print(
                f"cnnjax evaluate: {printable(data)} shares no class name with the weights; matched by order.",
                file=sys.stderr,
            )
        return np.arange(classes, dtype=np.int32)
    if other := sorted(set(ours) - common):
        named = ", ".join(map(repr, other[:5])) + (", ..." if len(other) > 5 else "")
        raise UsageError(f"The weights have no class {named} of {data}. Rename the folders, or give --classes=FILE.")
    doubled = {name for name in ours if theirs.count(name) > 1 or ours.count(name) > 1} if ours != theirs else ()
    if twice := sorted(doubled):
        places = " and ".join(str(place) for place, name in enumerate(theirs) if name == twice[0])
        raise UsageError(
            f"The weights have several classes called {twice[0]!r}: {places}. Give names that differ with "
            "--classes=FILE, and rename the folders to them."
        )
    return np.array(range(classes) if ours == theirs else [theirs.index(name) for name in ours], np.int32)


def _remedy(ours: tuple[str, ...], theirs: tuple[str, ...], classes: int) -> str:
    """What to do where the data have not as many classes as the network."""
    if theirs and set(theirs) <= set(ours):
        return f"Give the classes of the weights: --data.classes={','.join(str(ours.index(name)) for name in theirs)}."
    if len(ours) > classes:
        return "Use weights for these classes, or name those that the weights are for with --data.classes=0,1,..."
    return "Use weights for these classes, or give the names of theirs with --classes=FILE."


def _evaluated(
    found: "Pretrained", pictures: "Pictures", of_class: "np.ndarray", steps: "Preprocessing", batch_size: int
) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from cnnjax.cli.bar import bar
    from cnnjax.cli.inference import batches, check_answers, compiled, prepared

    count = pictures.count
    size = min(batch_size, count)
    labels = np.zeros(count, np.int32)

    def prepare(number: int) -> "np.ndarray":
        image, labels[number] = prepared(pictures.where(number), lambda: pictures.read(number), steps, SKIP)
        return image

    variables = jax.device_put(found.variables)
    shapes = [jax.ShapeDtypeStruct((size, *steps.image_shape), jnp.float32), jax.ShapeDtypeStruct((size,), jnp.int32)]
    compute = compiled(partial(_per_example, found.model), variables, *shapes)
    parts, done, started = [], 0, time.perf_counter()
    with bar(count, "images") as listen:
        for images, valid in batches(prepare, count, size):
            these = np.resize(of_class[labels[done : done + valid]], size)
            *numbers, answered = (np.asarray(part)[:valid] for part in compute(variables, images, these))
            check_answers(answered, pictures.where, done)
            parts.append(numbers)
            done += valid
            listen(done, "")
    seconds = time.perf_counter() - started
    losses, first, five = (np.concatenate(part).mean(dtype=np.float64).item() for part in zip(*parts, strict=True))
    return {
        "count": count, "top1_error": first, "top5_error": five, "cross_entropy": losses,
        "images_per_second": count / seconds,
    }  # fmt: skip


def _per_example(model: Any, variables: Any, images: Any, labels: Any) -> tuple[Any, Any, Any, Any]:
    """Cross-entropy, whether the label is not the likeliest class or not among the five likeliest, and ``answered``."""
    import jax

    from cnnjax import losses, metrics

    logits = model.apply(variables, images)[0]
    _, likeliest = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    hit = likeliest == labels[:, None]
    return losses.cross_entropy(logits, labels), ~hit[:, 0], ~hit.any(-1), metrics.answered(logits)


def _table(asked: dict[str, Any], numbers: dict[str, Any]) -> Any:
    from rich.table import Table

    from cnnjax.tables import cell

    table = Table(title=cell(f"{asked['model']} on {asked['data']}, {asked['split']}"))
    for title in ("images", "top-1 error", "top-5 error", "cross-entropy", "images per second"):
        table.add_column(title, justify="right")
    table.add_row(
        f"{numbers['count']:,}", f"{100 * numbers['top1_error']:.2f} %", f"{100 * numbers['top5_error']:.2f} %",
        f"{numbers['cross_entropy']:.4f}", f"{numbers['images_per_second']:,.1f}",
    )  # fmt: skip
    return table
