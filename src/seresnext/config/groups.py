"""The groups of a run's configuration, each field with its range."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ..model.architecture import MODEL_NAMES, Architecture, architecture
from ..model.spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CropRatio,
    ImageSize,
    InputSpec,
    Interpolation,
    Mean,
    Std,
)
from ..model.stages import stages_between
from ..schema import Count, NonNegative, PositiveInt, Probability, Rate, checked
from .durations import Duration, OptionalDuration, PositiveDuration
from .policy import policy_text

EngineName = Literal["torch", "mindspore"]
Precision = Literal["fp32", "bf16", "fp16", "auto"]

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Threads = Annotated[int, Field(ge=0, le=1024)]
Beta = Annotated[float, Field(gt=0, lt=1)]
Alpha = Annotated[float, Field(ge=0, le=1000)]


def known_model(name: str) -> str:
    if name not in MODEL_NAMES:
        raise ValueError(f"one of {', '.join(MODEL_NAMES)}")
    return name


def ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("low <= high")
    return pair


def focal_exponent(gamma: float) -> float:
    if gamma != 0 and not 1 <= gamma <= 10:  # below 1 the gradient is infinite where p is 1
        raise ValueError("0 (off) or 1 to 10")
    return gamma


def range_of_stages(text: str) -> str:
    stages_between(text)
    return text


def size_or_zero(side: int) -> int:
    if side != 0 and not 32 <= side <= 4096:
        raise ValueError("0 (as image_size) or 32 to 4096")
    return side


@checked("model")
class ModelConfig:
    """The network. Fields that are `None` follow from `name`."""

    name: Annotated[str, AfterValidator(known_model)] = "seresnext50_32x4d"
    """Member of the family; `seresnext doctor` lists them."""
    drop_path: Rate = 0.0
    """Stochastic depth: rate of the last block, growing linearly from 0."""
    dropout: Rate = 0.0
    """Dropout rate before the classifier."""
    zero_init_last_bn: bool = True
    """Start every block as the identity."""
    max_pool: Literal["torch", "same"] = "torch"
    """Padding of the stem's max-pool; `same` for weights from the original zoo or mindcv."""
    layers: tuple[int, int, int, int] | None = None
    """Blocks per stage."""
    cardinality: PositiveInt | None = None
    """Groups of the 3x3 convolution."""
    base_width: PositiveInt | None = None
    """Channels per group in the first stage."""
    se_reduction: PositiveInt | None = None
    """Squeeze ratio of the SE module."""
    stem: Literal["conv7", "deep"] | None = None
    """One 7x7 convolution, or three 3x3."""
    downsample: Literal["conv", "avg"] | None = None
    """Shortcut: strided 1x1, or average pool then 1x1."""
    classifier_bias: bool = True
    """Whether the classifier has a bias; the original zoo's has none."""
    se_bias: bool = True
    """Whether the SE module's second layer has a bias; the original zoo's has none."""

    def architecture(self, num_classes: int) -> Architecture:
        """Return the network for `num_classes` classes."""
        overrides = {k: v for k, v in vars(self).items() if k != "name" and v is not None}
        return architecture(self.name, num_classes=num_classes, **overrides)


@checked("data")
class DataConfig:
    """Where the images are, and how unreadable ones are treated."""

    root: str = ""
    """Folder with `train/<class>/` and `val/<class>/` (or `valid/`, `validation/`, `test/`), or
    with `<class>/` only; or a .csv or .tsv list of path, label and, optionally, split; or a folder
    of tar shards; or of ImageNet's three archives."""
    train: str = ""
    """Training folder `<class>/`, list or shards, instead of `root`/train."""
    val: str = ""
    """Validation folder `<class>/`, list or shards, instead of `root`/val."""
    val_share: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of each class that is held out for validation, where there are no validation images;
    None means 0.2 for a `root` without splits, else 0. The images are chosen by their names."""
    val_seed: Count = 0
    """Another number holds out other images."""
    balance: bool = False
    """Repeat the training images of rarer classes until all classes are equally frequent."""
    shuffle_archives: Count = 0
    """Of images in tar archives: shuffle the archives, and then the images of so many archives
    after one another, for storage that cannot read from all at once. 0 shuffles all images."""
    workers: Threads = 0
    """Decoding threads; 0 means one per core. The number has no effect on the samples."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """`stop` at the first unreadable image, or `skip` it, list it in `RUN/bad-images.jsonl` and
    leave its row of the batch out of the loss."""
    allow_empty_classes: bool = False
    """Accept class folders without images."""
    follow_links: bool = False
    """Follow links to files and folders, also outside the data folder; loops are refused."""
    max_pixels: PositiveInt = 210_000_000
    """Images with more pixels are refused before they are decoded. Phones take up to
    200 million."""
    drop_last: bool = False
    """True: drop the incomplete last batch of each epoch (the original's rule). False: no image is
    dropped; a batch may span two epochs."""
    allow_change: bool = False
    """Resume although the data no longer matches the checkpoint's fingerprint."""


@checked("augment")
class AugmentConfig:
    """Training augmentation, in the order of application, and evaluation preprocessing."""

    image_size: ImageSize = 224
    """Side of training images, pixels (32 to 4096)."""
    start_size: Annotated[int, AfterValidator(size_or_zero)] = 0
    """Side of training images at the start, pixels; they grow to `image_size`. 0 means `image_size`
    from the start. The sides in between are multiples of 32: at most 2 + (image_size - start_size)
    / 32 in all, for each of which a compiled step is compiled anew."""
    grow_begin: Probability = 0.0
    """Share of the run after which training images grow, linearly."""
    grow_end: Probability = 0.75
    """Share of the run after which they have `image_size`."""
    crop_scale: Annotated[tuple[Share, Share], AfterValidator(ordered)] = (0.08, 1.0)
    """Random-resized crop: share of the image's area. (1, 1) resizes the whole image."""
    crop_ratio: Annotated[tuple[Positive, Positive], AfterValidator(ordered)] = (3 / 4, 4 / 3)
    """Random-resized crop: range of the aspect ratio, drawn log-uniformly."""
    shift: Count = 0
    """Random translation by up to this many pixels, edges repeated (small images, digits)."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Random rotation by up to this many degrees, edges repeated."""
    hflip: Probability = 0.5
    """Probability of a horizontal flip."""
    policy: Annotated[str, AfterValidator(policy_text)] = ""
    """Operations drawn for each image, between flip and colour jitter: RandAugment in timm's
    notation (rand-m7-n2-mstd0.5-inc1; arXiv:1909.13719), `trivial` (TrivialAugment Wide,
    arXiv:2103.10158) or `auto` (AutoAugment for ImageNet, arXiv:1805.09501). Empty is none."""
    color_jitter: tuple[
        Probability, Probability, Probability, Annotated[float, Field(ge=0, le=0.5)]
    ] = (0.4, 0.4, 0.4, 0.1)
    """Strength of brightness, contrast, saturation and hue jitter; 0 is off."""
    three_augment: Probability = 0.0
    """Before the jitter: probability of greying, solarizing or blurring the image, one of them
    (arXiv:2204.07118, where it is 1)."""
    erase: Probability = 0.0
    """Probability of random erasing (arXiv:1708.04896)."""
    mixup: Alpha = 0.0
    """Alpha of mixup (arXiv:1710.09412); 0 is off."""
    cutmix: Alpha = 0.0
    """Alpha of CutMix (arXiv:1905.04899); 0 is off. With both, each pair draws one of them."""
    repeats: Annotated[int, Field(ge=1, le=64)] = 1
    """Repeated augmentation (arXiv:1902.05509): a global batch has each of its images so many
    times, each time augmented anew. An epoch keeps its length and shows fewer images."""
    mix_off: OptionalDuration = ""
    """The end of the run that has neither, such as "10 epochs"; empty is none of it."""
    eval_image_size: Annotated[int, AfterValidator(size_or_zero)] = 0
    """Side of evaluation images, pixels; 0 means `image_size`."""
    eval_crop_ratio: CropRatio = 0.875
    """Evaluation: short side is resized to size / ratio, then the centre is cropped."""
    eval_interpolation: Interpolation = "bicubic"
    """Evaluation: resize filter (antialiased, Pillow's)."""
    mean: tuple[Mean, Mean, Mean] = IMAGENET_MEAN
    """Channel means that normalise pixels in 0..1."""
    std: tuple[Std, Std, Std] = IMAGENET_STD
    """Channel standard deviations that normalise pixels in 0..1."""

    @property
    def smallest_size(self) -> int:
        """Side of the smallest training images, pixels."""
        return self.start_size or self.image_size

    def input_spec(self) -> InputSpec:
        """Return the evaluation preprocessing, which is stored with the model."""
        return InputSpec(
            image_size=self.eval_image_size or self.image_size,
            crop_ratio=self.eval_crop_ratio,
            interpolation=self.eval_interpolation,
            mean=self.mean,
            std=self.std,
        )


@checked("loss")
class LossConfig:
    """The loss of an image, its target smoothed, its classes weighted."""

    kind: Literal["cross-entropy", "binary"] = "cross-entropy"
    """`cross-entropy` of the softmax, or `binary` cross-entropy of each class's sigmoid, averaged
    over the classes (arXiv:2110.00476)."""
    label_smoothing: Rate = 0.1
    """Share of the target spread over all classes (arXiv:1512.00567)."""
    smoothing_off_target: bool = False
    """Spread over the other K-1 classes only (the original zoo's rule) instead of all K."""
    threshold: Rate | None = None
    """Binary: classes whose target (smoothed, mixed) is above this are 1, the others 0. None keeps
    the target as it is."""
    focal_gamma: Annotated[float, AfterValidator(focal_exponent)] = 0.0
    """Focal loss (arXiv:1708.02002): each term times (1 - p)^gamma, p the probability of what is
    right. 0 is off; 2 is usual."""
    class_balance: Probability = 0.0
    """Weigh rare classes more: a class of n training images by (1 - b) / (1 - b^n)
    (arXiv:1901.05555), scaled to a mean of 1 over the images. 0 is off, 1 is 1 / n."""
    class_weights: tuple[NonNegative, ...] = ()
    """Weights of the classes, in their order, instead of `class_balance`."""
    teacher: str = ""
    """Model whose answers for the same pixels are learnt beside the labels (knowledge distillation,
    arXiv:1503.02531): run folder, model folder, weights or artifact, with the same classes."""
    teacher_share: Share = 0.5
    """Share of the teacher's loss; the labels' has the rest. 1 learns from the teacher alone."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Logits of both are divided by this; the loss is KL(teacher, student) times its square."""


@checked("optim")
class OptimConfig:
    """The optimizer, what it trains, and weight averaging. BN and biases have no weight decay."""

    name: Literal["sgd", "adamw", "lamb"] = "sgd"
    """sgd, adamw (arXiv:1711.05101), or lamb (arXiv:1904.00962), as timm has it."""
    lr_per_256: NonNegative = 0.1
    """Learning rate per 256 images of global batch; scaled linearly (arXiv:1706.02677)."""
    lr: NonNegative | None = None
    """Learning rate at the global batch, not scaled, instead of `lr_per_256`."""
    momentum: Rate = 0.9
    """SGD: v = momentum * v + g; w = w - lr * v."""
    nesterov: bool = False
    """SGD: w = w - lr * (g + momentum * v)."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW and LAMB: decay of the averages of the gradient and of its square."""
    eps: Positive = 1e-8
    """AdamW and LAMB: added to the root of the average square."""
    weight_decay: NonNegative = 1e-4
    """Of kernels and matrices. SGD: added to the gradient (times the weight); AdamW: the weight
    shrinks by lr times it; LAMB: added to the update before its norm is taken."""
    layer_decay: Share = 1.0
    """Each block's learning rate is this times the next one's: fc has the full rate, the last block
    `layer_decay` of it, the one before its square. 1 is off."""
    freeze: Annotated[str, AfterValidator(range_of_stages)] = ""
    """Stages that are not trained, BN statistics included: `stem..layer3` or `stem`, of stem
    and layer1 to layer4; the classifier is always trained. Empty trains all."""
    freeze_bn: bool = False
    """All BN layers normalise by their running statistics, which stay as they are; for few images
    per device."""
    clip_norm: NonNegative = 0.0
    """Scale gradients down to this global L2 norm; 0 is off."""
    clip_unit: NonNegative = 0.0
    """Adaptive gradient clipping (arXiv:2102.06171): scale the gradient of each output channel of a
    kernel, and of each bias or BN vector, down to this times the norm of its weights; the
    classifier's stays. 0 is off; 0.01 to 0.1 are usual."""
    accumulate: PositiveInt = 1
    """Cut each batch into this many pieces to save memory. The update still sees `batch_size`
    images; BN statistics are per piece."""
    ema_decay: Rate = 0.0
    """Exponential moving average of the weights, used for evaluation and shipped; 0 is off.
    The decay of update t is min(ema_decay, (1 + t) / (10 + t))."""

    def peak_lr(self, global_batch: int) -> float:
        """Return the learning rate after the warmup, for a global batch of this many images."""
        return self.lr_per_256 * global_batch / 256 if self.lr is None else self.lr


@checked("schedule")
class ScheduleConfig:
    """Learning rate over the run: linear warmup, then `kind`."""

    kind: Literal["cosine", "step", "linear", "constant"] = "cosine"
    """Shape after the warmup."""
    warmup: Duration = "5 epochs"
    """Duration of the linear warmup; part of the run's duration."""
    final_lr_ratio: Probability = 0.0
    """Cosine and linear end at this share of the peak."""
    milestones: tuple[Duration, ...] = ("30 epochs", "60 epochs", "90 epochs")
    """Step: durations after which the rate is multiplied by `gamma`."""
    gamma: float = 0.1
    """Step: factor at each milestone."""
    per_epoch: bool = False
    """Hold the rate constant within an epoch after the warmup (the original zoo's curve)."""
    cosine_period: OptionalDuration = ""
    """Cosine: duration of half a period, counted from the start of the run; empty means the
    run. Shorter than the run, the rate rises again afterwards (the original zoo's T_max)."""


@checked("engine")
class EngineConfig:
    """Framework, device and arithmetic."""

    name: EngineName = "torch"
    """Framework."""
    device: str = "auto"
    """torch: auto, cpu, cuda, cuda:N, npu, npu:N, mps. mindspore: auto, cpu, ascend, ascend:N."""
    precision: Precision = "fp32"
    """Arithmetic of convolutions and matrix products; weights and BN statistics stay float32.
    auto: bf16 where a short measurement at the start finds it faster; kept on resuming."""
    fp16_batch_norm: bool = False
    """Run BN in half precision too (MindSpore's O3, as the original did)."""
    loss_scale: NonNegative = 0.0
    """Fixed loss scale for fp16; 0 means dynamic (where the device can)."""
    channels_last: bool = True
    """torch: NHWC memory layout."""
    compile: bool = False
    """torch: compile the step with `torch.compile`."""
    threads: Threads = 0
    """Compute threads on the CPU; 0 means the framework's choice, an equal share of the cores
    where several processes share a machine, and 1 with virtual shards."""
    sync_bn: bool = False
    """Batch statistics over all ranks instead of per rank."""
    virtual_shards: Count = 0
    """Cut each global batch into this many shards, each with its own BN statistics and noise,
    combined in order: any world size that divides it gives the same bits on CPU. 0 is off."""


@checked("run")
class RunConfig:
    """Length of a run, logging, checkpoints, limits."""

    out: Annotated[str, Field(min_length=1)] = "runs/latest"
    """Run folder: config, logs, checkpoints, finished model."""
    duration: PositiveDuration = "90 epochs"
    """Length of the run: epochs, steps or images; or "15 epochs, at least 200 steps"."""
    batch_size: PositiveInt = 128
    """Images per device and update."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seeds weights, order, augmentation and noise."""
    resume: str = "auto"
    """`auto` (newest valid checkpoint of the run folder), `never`, or a checkpoint folder."""
    pretrained: str = ""
    """Start from these weights: a run, model folder, .safetensors or .pth (weights only)."""
    log_every: Duration = "20 steps"
    """How often metrics are fetched from the device and logged."""
    eval_every: OptionalDuration = "1 epochs"
    """How often the validation set is evaluated; empty means only at the end."""
    save_every: Duration = "1 epochs"
    """How often a checkpoint is written."""
    keep_checkpoint_max: PositiveInt = 3
    """Number of newest checkpoints kept, in addition to the best one."""
    ship: Literal["auto", "best", "last", "average"] = "auto"
    """Weights of the finished model: those of the `best` evaluation, the `last` ones, or their
    `average` (with optim.ema_decay). `auto`: best where there is a validation set, else the
    average, else the last."""
    report: bool = True
    """Write `report.html` into the run folder at the end: curves, mistakes, activation maps."""
    early_stop: Count = 0
    """Stop after this many evaluations without a better top-1; 0 is off."""
    max_bad_steps: PositiveInt = 10
    """Stop after this many steps in a row whose loss or gradient is not finite."""
    rank_timeout: Annotated[float, Field(ge=5, le=86_400)] = 15.0
    """Seconds without a heartbeat after which a process counts as lost and the others end. Slow
    processes (compiling, waiting for data) still send heartbeats."""
    eval_batch_size: Count = 0
    """Images per evaluation batch and device; 0 means `batch_size`."""
