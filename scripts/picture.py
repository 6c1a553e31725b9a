"""Draw the README's picture from the demo's run: learning curves and validation digits.

    python scripts/picture.py [--run runs/demo] [--data data/digits] [--out docs/images]

It writes demo-light.png and demo-dark.png. Everything in them is read from the run folder
(`metrics.jsonl`) or predicted by its model.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import seresnext

WIDTH, HEIGHT = 1400, 730
SCALE = 2
"""Drawn this much larger and reduced at the end: Pillow's lines are not antialiased."""
PHOTO = 92
"""Side of a digit, pixels."""
EDGE = 44


@dataclass(frozen=True)
class Theme:
    """Colours of GitHub's light or dark pages."""

    background: str
    text: str
    faint: str
    grid: str
    line: str
    wrong: str


THEMES = {
    "light": Theme("#ffffff", "#1f2328", "#59636e", "#d1d9e0", "#0969da", "#bc4c00"),
    "dark": Theme("#0d1117", "#f0f6fc", "#9198a1", "#3d444d", "#4493f8", "#f0883e"),
}


class Canvas:
    """Lines and text in the pixels of the finished picture."""

    def __init__(self, theme: Theme) -> None:
        self.theme = theme
        self.image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), theme.background)
        self._draw = ImageDraw.Draw(self.image)

    def line(self, points: list[tuple[float, float]], colour: str, width: int) -> None:
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.line(scaled, colour, width * SCALE, joint="curve")

    def dot(self, x: float, y: float, radius: int) -> None:
        self._draw.circle((x * SCALE, y * SCALE), radius * SCALE, self.theme.line)

    def frame(self, x: float, y: float, side: int, colour: str, width: int) -> None:
        box = (x * SCALE, y * SCALE, (x + side) * SCALE, (y + side) * SCALE)
        self._draw.rectangle(box, outline=colour, width=width * SCALE)

    def text(
        self, x: float, y: float, text: str, size: int, colour: str, anchor: str = "mm"
    ) -> None:
        """Write text; `anchor` says which point of it is at (x, y), as in Pillow."""
        font = ImageFont.load_default(size * SCALE)
        self._draw.text((x * SCALE, y * SCALE), text, colour, font, anchor)

    def paste(self, image: Image.Image, x: float, y: float) -> None:
        self.image.paste(image, (round(x * SCALE), round(y * SCALE)))


@dataclass(frozen=True)
class Chart:
    """A line chart at a place of the picture; x is in epochs."""

    title: str
    left: int
    points: list[tuple[float, float]]
    epochs: float
    ticks: tuple[float, ...]
    """Values of the horizontal grid lines; the last one is the top."""
    unit: str
    markers: bool

    top, bottom, width = 100, 390, 520

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = self.left + x / self.epochs * self.width
        return across, self.bottom - y / self.ticks[-1] * (self.bottom - self.top)

    def draw(self, canvas: Canvas) -> None:
        theme = canvas.theme
        canvas.text(self.left - 70, 44, self.title, 36, theme.text, "lm")
        for tick in self.ticks:
            y = self.place(0, tick)[1]
            canvas.line([(self.left, y), (self.left + self.width, y)], theme.grid, 2)
            canvas.text(self.left - 14, y, f"{tick:g}{self.unit}", 28, theme.faint, "rm")
        for epoch in range(0, int(self.epochs) + 1, 4):
            canvas.text(self.place(epoch, 0)[0], self.bottom + 28, str(epoch), 28, theme.faint)
        canvas.text(self.left + self.width + 8, self.bottom + 60, "epoch", 28, theme.faint, "rm")
        places = [self.place(x, y) for x, y in self.points]
        canvas.line(places, theme.line, 5)
        for x, y in places if self.markers else places[-1:]:
            canvas.dot(x, y, 7)
        last = f"{self.points[-1][1]:.4g}{self.unit}"
        canvas.text(self.left + self.width, 44, last, 36, theme.line, "rm")


def charts(run: Path) -> list[Chart]:
    history = seresnext.TrainResult(run, None).history
    loss = [(r["epoch"], r["train/loss"]) for r in history if "train/loss" in r]
    top1 = [(r["epoch"], 100 * r["val/top1"]) for r in history if "val/top1" in r]
    epochs = history[-1]["epoch"]
    ceiling = -(-max(value for _, value in loss) // 1)
    return [
        Chart("Training loss", 114, loss, epochs, tuple(range(int(ceiling) + 1)), "", False),
        Chart("Validation top-1", 834, top1, epochs, (0, 25, 50, 75, 100), " %", True),
    ]


@dataclass(frozen=True)
class Digit:
    file: Path
    predicted: str
    probability: float

    @property
    def label(self) -> str:
        return self.file.parent.name

    @property
    def wrong(self) -> bool:
        return self.predicted != self.label


def predicted_digits(run: Path, data: Path) -> list[Digit]:
    """All validation images with the model's answers."""
    files = sorted((data / "val").glob("*/*.png"))
    with seresnext.load(run) as model:
        answers = list(model.predict_each(files, top=1))
    return [
        Digit(file, answer.classes[0], answer.probabilities[0])
        for file, answer in zip(files, answers, strict=True)
    ]


def draw_digits(canvas: Canvas, digits: list[Digit]) -> None:
    """The first image of each class, then up to three wrong ones: prediction, probability."""
    theme, top = canvas.theme, 532
    firsts = [next(d for d in digits if d.label == label) for label in "0123456789"]
    wrong = [d for d in digits if d.wrong]
    title = "First validation digit of each class: prediction, probability"
    canvas.text(EDGE, 500, title, 32, theme.text, "lm")
    total = f"Wrong: {len(wrong)} of {len(digits)}"
    canvas.text(WIDTH - EDGE, 500, total, 32, theme.wrong, "rm")
    step = (WIDTH - 2 * EDGE - PHOTO) / (len(firsts) + 2)
    for place, digit in enumerate([*firsts, *[d for d in wrong if d not in firsts][:3]]):
        x, centre = EDGE + place * step, EDGE + place * step + PHOTO / 2
        pixels = Image.open(digit.file).convert("RGB")
        canvas.paste(pixels.resize((PHOTO * SCALE,) * 2, Image.Resampling.NEAREST), x, top)
        colour = theme.wrong if digit.wrong else theme.text
        canvas.frame(x, top, PHOTO, theme.wrong if digit.wrong else theme.grid, 4)
        canvas.text(centre, top + 116, digit.predicted, 34, colour)
        canvas.text(centre, top + 148, f"{digit.probability:.0%}", 28, theme.faint)
        if digit.wrong:
            canvas.text(centre, top + 178, f"is {digit.label}", 28, colour)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--data", type=Path, default=Path("data/digits"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    curves, digits = charts(args.run), predicted_digits(args.run, args.data)
    for name, theme in THEMES.items():
        canvas = Canvas(theme)
        for curve in curves:
            curve.draw(canvas)
        draw_digits(canvas, digits)
        small = canvas.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        path = args.out / f"demo-{name}.png"
        small.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
