// Preprocessing as in Python (data/preprocess.py): Pillow's resize, and the crop. The same bits,
// but for images so high that Pillow resizes the columns first, which rounds by one level otherwise.

const BITS = 22; // of a weight's fraction, as in Pillow's Resample.c
const MAX_ASPECT = 16;
const STRIP = 1 << 22; // pixels that are read from a canvas at a time

const FILTERS = {
  bilinear: { reach: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { reach: 2, at: (x) => cubic(Math.abs(x)) },
};

function cubic(x) {
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/** The pixels that the network takes, uint8 [S, S, 3], of an image file. */
export async function preprocess(file, spec) {
  let bitmap;
  try {
    // Colour profiles are not looked at, as in Python.
    const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
    bitmap = await createImageBitmap(file, options);
  } catch {
    throw new Error("no image, or one that this browser cannot read; expected JPEG, PNG or WebP");
  }
  const pixels = resize(bitmap, spec);
  bitmap.close();
  return pixels;
}

function resize(bitmap, spec) {
  const { x, y } = windows(bitmap.width, bitmap.height, spec);
  const [left, right] = extent(x);
  const [top, bottom] = extent(y);
  const width = right - left;
  const rows = Math.max(1, Math.min(bottom - top, Math.floor(STRIP / width)));
  const context = new OffscreenCanvas(width, rows).getContext("2d", { willReadFrequently: true });
  const narrow = new Uint8Array((bottom - top) * x.length * 3);
  for (let row = top; row < bottom; row += rows) {
    context.fillStyle = "#fff"; // behind transparent pixels
    context.fillRect(0, 0, width, rows);
    context.drawImage(bitmap, -left, -row);
    const count = Math.min(rows, bottom - row);
    const { data } = context.getImageData(0, 0, width, count);
    resample(data, 4, 4 * width, left, x, narrow.subarray((row - top) * x.length * 3), count);
  }
  // The vertical pass is the same with rows and columns exchanged.
  const out = new Uint8Array(x.length * y.length * 3);
  const line = 3 * x.length;
  for (let column = 0; column < x.length; column++) {
    resampleLine(narrow, 3 * column, line, top, y, out, 3 * column, line);
  }
  return out;
}

function resample(pixels, step, line, first, taken, out, count) {
  for (let row = 0; row < count; row++) {
    resampleLine(pixels, row * line, step, first, taken, out, row * taken.length * 3, 3);
  }
}

/** Weighted sums along one line of pixels that starts at position `first`; three channels. */
function resampleLine(pixels, start, step, first, taken, out, outStart, outStep) {
  for (const [i, { from, weights }] of taken.entries()) {
    let red = 1 << (BITS - 1); // rounds
    let green = red;
    let blue = red;
    let at = start + (from - first) * step;
    for (const weight of weights) {
      red += pixels[at] * weight;
      green += pixels[at + 1] * weight;
      blue += pixels[at + 2] * weight;
      at += step;
    }
    const to = outStart + i * outStep;
    out[to] = level(red);
    out[to + 1] = level(green);
    out[to + 2] = level(blue);
  }
}

const level = (sum) => Math.min(255, Math.max(0, sum >> BITS));

/** For each column and each row of the crop: the first pixel that it is made of, and the weights. */
function windows(width, height, spec) {
  const { image_size: size, resize } = spec;
  const short = Math.floor(size / spec.crop_ratio);
  const least = Math.min(width, height);
  const long = resize === "stretch" ? Infinity : MAX_ASPECT * least;
  const axis = (whole) => {
    const used = Math.min(whole, long); // the middle of a longer strip
    const skipped = Math.floor((whole - used) / 2);
    const resized =
      resize === "stretch" || used === least ? short : Math.floor((short * used) / least);
    const margin = (resized - size) / 2;
    const start = resize === "original" ? Math.floor(margin) : halfToEven(margin);
    return Array.from({ length: size }, (_, i) => {
      const { from, weights } = taps(start + i, used, resized, spec);
      return { from: from + skipped, weights };
    });
  };
  return { x: axis(width), y: axis(height) };
}


/** The pixels of one line that make the pixel at `position` of the resized line, as in Pillow. */
function taps(position, before, after, { interpolation, resize }) {
  const original = resize === "original"; // OpenCV's bilinear filter, not antialiased
  const { reach, at } = FILTERS[original ? "bilinear" : interpolation];
  const scale = before / after;
  const wide = original ? 1 : Math.max(1, scale);
  const center = (position + 0.5) * scale;
  const from = Math.max(0, Math.trunc(center - reach * wide + 0.5));
  const to = Math.min(before, Math.trunc(center + reach * wide + 0.5));
  const shares = Array.from({ length: to - from }, (_, i) => at((i + from - center + 0.5) * (1 / wide)));
  const sum = shares.reduce((a, b) => a + b, 0);
  const weights = shares.map((share) => {
    const exact = (share / sum) * (1 << BITS);
    return Math.trunc(exact < 0 ? exact - 0.5 : exact + 0.5);
  });
  return { from, weights };
}

const extent = (taken) => {
  const last = taken[taken.length - 1];
  return [taken[0].from, last.from + last.weights.length];
};

function halfToEven(value) {
  const low = Math.floor(value);
  return value - low === 0.5 ? low + (low % 2) : Math.round(value);
}
