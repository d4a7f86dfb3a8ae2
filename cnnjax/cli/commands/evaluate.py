"""Error and loss of weights on a dataset: top-1 and top-5 error, mean cross-entropy, images per second.

  cnnjax evaluate --model=NAME --weights=FILE --data=DATA [--split=test] [--batch_size=64] [--json]

DATA is folder:DIR (DIR/train/CLASS/* with DIR/test/CLASS/*, DIR/valid/CLASS/* or both, or DIR/CLASS/*), digits, shapes
or tfds:NAME. A folder's images are read one by one at their own size and prepared as the weights ask; other datasets
are decoded first. --split=all takes every image. Classes are matched by name where the weights know their names, else
by their order.

examples:
  cnnjax evaluate --model=resnet50 --weights=resnet50-11ad3fa6.pth --data=folder:imagenet/val --split=all
  cnnjax evaluate --weights=mine.safetensors --data=digits --json
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from cnnjax.cli import weights_flags
from cnnjax.cli.arguments import Arguments
from cnnjax.strict_json import encode

if TYPE_CHECKING:
    import numpy as np

    from cnnjax.cli.inference import Prepare
    from cnnjax.cli.pretrained import Pretrained
    from cnnjax.weights import Preprocessing


class Examples(NamedTuple):
    """What is evaluated.

    Attributes:
      prepare: number of an example -> its image (H, W, C) as the network takes it.
      labels: (N,), in the order of the network's classes.
      name: number of an example -> what an error calls it.
    """

    prepare: "Prepare"
    labels: "np.ndarray"
    name: Callable[[int], str]


def define(arguments: Arguments, argv: list[str]) -> None:
    """Defines the flags.

    Raises:
      UsageError: there is no network of that name.
    """
    arguments.add("weights", str, None, "file of the weights, or its hf: address")
    arguments.add("data", str, None, "folder:DIR, digits, shapes or tfds:NAME")
    arguments.choice("split", "test", ["train", "valid", "test", "all"], "which examples")
    arguments.add("batch_size", int, 64, "images computed at once", lower_bound=1)
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
    examples = _examples(arguments, found, steps, classes)
    numbers = _evaluated(found, examples, steps, arguments.batch_size)
    asked = {"model": found.name, "weights": arguments.weights, "data": arguments.data, "split": arguments.split}
    if arguments.json:
        print(encode({**asked, **numbers}, indent=1))
    else:
        show(_table(asked, numbers), pretrained.described(steps))


def _examples(arguments: Arguments, found: "Pretrained", steps: "Preprocessing", classes: int) -> Examples:
    import numpy as np

    from cnnjax.cli.bar import bar
    from cnnjax.cli.inference import prepare_file
    from cnnjax.data import DataConfig, describe, folder, load

    config = DataConfig(arguments.data)
    if arguments.data.startswith("folder:") and config.argument:
        paths, labels, names = folder.files(config, arguments.split)
        of_class = matched(names, found.class_names, classes, arguments.data)
        prepare, name = (lambda n: prepare_file(paths[n], steps)), (lambda n: str(paths[n]))
        return Examples(prepare, of_class[np.array(labels)], name)
    info = describe(config)
    of_class = matched(info.class_names, found.class_names, classes, arguments.data)
    with bar(sum(info.sizes.values()), "images") as listen:
        dataset = load(config, lambda done, total: listen(done, "decoding"))
    chosen = slice(None) if arguments.split == "all" else slice(*dataset.ranges[arguments.split])
    images = dataset.images[chosen]
    prepare, name = (lambda n: steps.apply(np.asarray(images[n]))), (lambda n: f"number {n} of {arguments.split}")
    return Examples(prepare, of_class[dataset.labels[chosen]], name)


def matched(ours: tuple[str, ...], theirs: tuple[str, ...], classes: int, data: str) -> "np.ndarray":
    """The network's class for each class of the data: by name, or by order where no name is the same.

    Data of some of the network's classes only, such as a part of ImageNet, are matched by name.

    Args:
      ours: names of the data's classes.
      theirs: names of the network's classes; may be empty.
      classes: of the network.
      data: what errors call the data.

    Raises:
      UsageError: their numbers differ, or some names are the same and others are not.
    """
    import numpy as np

    from cnnjax.typing import UsageError

    some = 0 < len(ours) < classes and set(ours) <= set(theirs)
    if len(ours) != classes and not some:
        known = "" if theirs else " Or give the names of theirs with --classes=FILE."
        raise UsageError(
            f"{data} has {len(ours)} classes, the weights {classes}. Use weights for these classes.{known}"
        )
    common = set(ours) & set(theirs)
    if not common:
        if theirs:
            print(f"cnnjax evaluate: {data} shares no class name with the weights; matched by order.", file=sys.stderr)
        return np.arange(classes, dtype=np.int32)
    if other := sorted(set(ours) - common):
        named = ", ".join(map(repr, other[:5])) + (", ..." if len(other) > 5 else "")
        raise UsageError(f"The weights have no class {named} of {data}. Rename the folders, or give --classes=FILE.")
    return np.array([theirs.index(name) for name in ours], np.int32)


def _evaluated(found: "Pretrained", examples: Examples, steps: "Preprocessing", batch_size: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from cnnjax.cli.bar import bar
    from cnnjax.cli.inference import batches, check_answers, compiled

    count = len(examples.labels)
    size = min(batch_size, count)
    variables = jax.device_put(found.variables)
    shapes = [jax.ShapeDtypeStruct((size, *steps.image_shape), jnp.float32), jax.ShapeDtypeStruct((size,), jnp.int32)]
    compute = compiled(partial(_per_example, found.model), variables, *shapes)
    parts, done, started = [], 0, time.perf_counter()
    with bar(count, "images") as listen:
        for images, valid in batches(examples.prepare, count, size):
            labels = np.resize(examples.labels[done : done + valid], size)
            *numbers, answered = (np.asarray(part)[:valid] for part in compute(variables, images, labels))
            check_answers(answered, lambda n, start=done: examples.name(start + n))
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
    from rich.text import Text

    table = Table(title=Text(f"{asked['model']} on {asked['data']}, {asked['split']}"))
    for title in ("images", "top-1 error", "top-5 error", "cross-entropy", "images per second"):
        table.add_column(title, justify="right")
    table.add_row(
        f"{numbers['count']:,}", f"{100 * numbers['top1_error']:.2f} %", f"{100 * numbers['top5_error']:.2f} %",
        f"{numbers['cross_entropy']:.4f}", f"{numbers['images_per_second']:,.1f}",
    )  # fmt: skip
    return table
