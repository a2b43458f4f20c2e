"""The whole configuration: what a run is made of, and the sections below it."""

import bisect
from dataclasses import dataclass, field

from clipjax.config.checks import at_least, one_of
from clipjax.config.data import DataConfig
from clipjax.config.mesh import MeshConfig
from clipjax.config.model import ModelConfig
from clipjax.config.optimizer import OptimizerConfig
from clipjax.config.stages import StageConfig, at_stage, stage_ends


@dataclass(frozen=True)
class LossConfig:
    """The contrastive loss; `block_size` is the side of the tiles, in rows.

    kind: CLIP's "softmax", or the "sigmoid" of SigLIP, whose model has a logit_bias. `mask_duplicates` leaves rows of a
    batch with the same picture or caption out of each other's negatives.
    """

    kind: str = "softmax"
    method: str = "auto"
    block_size: int = 2048
    mask_duplicates: bool = False

    def mistakes(self) -> list[str]:
        """What is wrong with the section on its own, one line each."""
        rows = one_of(self, "kind", "softmax", "sigmoid") + one_of(self, "method", "auto", "ring", "gather")
        return rows + at_least(self, 1, "block_size")


@dataclass(frozen=True)
class Config:
    """Everything that decides a run. Give exactly one of `total_steps` and `total_samples`.

    `checkpoint_every` and `evaluate_every` count steps (0: only at the end, never). `max_skipped_steps` is how many
    steps in a row may be skipped for a gradient that is not finite before the run stops. `batch_size` is global, and so
    is `micro_batch_size`: the rows whose activations exist at a time (unset: all of them).
    `dropout` is the share of numbers left out at the end of both branches of each transformer block, `patch_dropout`
    that of a picture's patches; `stages` are first parts of the run that differ (`StageConfig`).

    `init_from` is anything that `clipjax.load` takes: the run starts from its weights (empty: the config wants one
    given). `freeze` names a tower that keeps its weights, projection included ("none", "image", "text");
    `freeze_batch_norm` keeps running averages, gains and biases of every BatchNorm.
    """

    seed: int = 0
    batch_size: int = 256
    total_steps: int | None = None
    total_samples: int | None = None
    micro_batch_size: int | None = None
    precision: str = "float32"
    remat: str = "none"
    dropout: float = 0.0
    patch_dropout: float = 0.0
    stages: tuple[StageConfig, ...] = ()
    init_from: str | None = None
    freeze: str = "none"
    freeze_batch_norm: bool = False
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    evaluate_every: int = 0
    max_skipped_steps: int = 10
    wandb_project: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def mistakes(self) -> list[str]:
        """What is wrong at the top level on its own, one line each."""
        rows = at_least(self, 1, "batch_size", "keep_checkpoints", "max_skipped_steps")
        rows += at_least(self, 0, "seed", "checkpoint_every", "evaluate_every")
        if self.micro_batch_size is not None:
            rows += at_least(self, 1, "micro_batch_size") or self._micro_batch_mistakes()
        if not 0 <= self.dropout < 1:
            rows.append(f"dropout: {self.dropout} should be a share of numbers, at least 0 and less than 1")
        rows += one_of(self, "precision", "float32", "bfloat16", "float16")
        rows += one_of(self, "remat", "none", "block", "dots", "offload")
        rows += one_of(self, "freeze", "none", "image", "text")
        if self.init_from is None and (self.freeze != "none" or self.freeze_batch_norm):
            rows.append("freeze: what is frozen stays as it begins, so init_from should name where it comes from")
        return rows

    def stage_of(self, step: int) -> int:
        """The stage that a step (from 0) lies in; the number of stages where it lies in none: the config itself."""
        return bisect.bisect_right(stage_ends(self.stages, self.total_steps or 0), step)

    def at(self, step: int) -> "Config":
        """The config as its stage has it at a step (from 0)."""
        number = self.stage_of(step)
        return at_stage(self, self.stages[number]) if number < len(self.stages) else self

    def _micro_batch_mistakes(self) -> list[str]:
        if self.batch_size % self.micro_batch_size:
            return [f"micro_batch_size: {self.micro_batch_size} does not divide batch_size={self.batch_size}"]
        return []
