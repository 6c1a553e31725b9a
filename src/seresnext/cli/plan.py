"""`seresnext plan`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..config import Config, DataConfig, recipe
from ..config.recipes import INTENDED, Intended
from ..errors import UserError
from ..files import to_json
from ..flags import Positional, parse
from ..training.estimate import Estimate, estimate
from .options import JsonOption


@dataclass(frozen=True, kw_only=True)
class PlanArgs(JsonOption):
    """Say what a recipe takes before anybody starts it: steps, hours, cost.

    Hours need a measured rate: the log of a run of some hundred steps shows its images per second.
    """

    recipe: Positional[str]
    """Recipe; `seresnext recipes` lists them."""
    data: Path | None = None
    """Count these images: what `seresnext train --data` takes."""
    images: int | None = None
    """Training images. By default those of the recipe's data set."""
    val_images: int | None = None
    """Validation images. By default those of the recipe's data set; 0 evaluates nothing."""
    devices: int | None = None
    """Devices. By default those that the recipe is made for."""
    batch_size: int | None = None
    """Images per device and update."""
    epochs: float | None = None
    """Length of the run."""
    images_per_second: float | None = None
    """Measured training rate of all devices together, at the recipe's full image size."""
    price: float | None = None
    """Of one device and hour."""


def run(argv: list[str]) -> int:
    args = parse(PlanArgs, argv, "seresnext plan")
    for name in ("images", "devices", "images_per_second", "price"):
        value = getattr(args, name)
        if value is not None and not 0 < value < 1e15:
            raise UserError(f"--{name.replace('_', '-')}: expected more than 0, got {value}")
    config = recipe(args.recipe)
    if args.batch_size is not None:
        config = config.replace(batch_size=args.batch_size)
    if args.epochs is not None:
        config = config.replace(epochs=args.epochs)
    what = _intended(args)
    found = estimate(
        config.check(),
        what.images,
        what.val_images,
        what.devices,
        args.images_per_second,
        args.price,
    )
    if args.json:
        print(to_json(asdict(found)))
    else:
        print(_text(args, config, what, found))
    return 0


def _intended(args: PlanArgs) -> Intended:
    """Images and devices: those given, else those that are counted, else the recipe's."""
    usual = INTENDED.get(args.recipe)
    if args.data is not None:
        from ..data.sources import open_splits

        train, val = open_splits(DataConfig(root=str(args.data)))
        usual = Intended(len(train), len(val) if val else 0, usual.devices if usual else 1)
    if args.images is not None:
        usual = Intended(args.images, 0, usual.devices if usual else 1)
    if usual is None:
        raise UserError(
            f"{args.recipe} is for any data: say how many images there are with --images N, or "
            "count them with --data DIR"
        )
    given = {"val_images": args.val_images, "devices": args.devices}
    return replace(usual, **{name: value for name, value in given.items() if value is not None})


def _text(args: PlanArgs, config: Config, what: Intended, found: Estimate) -> str:
    plan = found.plan
    rows = [
        ("images", f"{what.images:,} to train, {what.val_images:,} to validate"),
        ("batch", f"{plan.global_batch:,} = {what.devices} devices of {plan.batch_size}"),
        (
            "steps",
            f"{plan.total_steps:,} ({config.run.duration}; {plan.steps_per_epoch:,.1f} an epoch), "
            f"{found.images:,} images seen",
        ),
        *_sizes(found),
        ("rate", f"{plan.peak_lr:.4g} at its highest ({config.optim.name})"),
        ("validated", f"{found.evaluations:,} times"),
    ]
    if found.hours is None:
        rows.append(
            (
                "time",
                "--images-per-second N says it; a run of some hundred steps on your machine "
                "shows N in its log"
                + (", with --augment.start-size 0" if len(plan.sizes) > 1 else ""),
            )
        )
    else:
        rows.append(
            (
                "time",
                f"{found.hours:,.1f} h at {args.images_per_second:,.6g} images/s of all devices "
                + (f"at {plan.sizes[-1][1]} px " if len(plan.sizes) > 1 else "")
                + "(a validated image counts a third)",
            )
        )
    if found.cost is not None:
        rows.append(("cost", f"{found.cost:,.2f} for {found.device_hours:,.1f} device hours"))
    elif args.price is not None:
        rows.append(("cost", "needs --images-per-second"))
    rows.append(
        (
            "memory",
            f"{found.state_bytes / 1e9:.2f} GB a device for weights, gradients and optimizer, "
            "beside activations, which are not estimated",
        )
    )
    return "\n".join(f"{name:<10} {text}" for name, text in rows)


def _sizes(found: Estimate) -> list[tuple[str, str]]:
    """The row about the sizes of training images, where they grow."""
    if len(found.plan.sizes) == 1:
        return []
    sizes = ", ".join(f"{side} px from step {first + 1:,}" for first, side in found.plan.sizes)
    return [("size", f"{sizes}; {found.relative_pixels:.0%} of the last one's pixels on average")]
