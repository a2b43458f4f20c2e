"""Stages: the first parts of a run may be cheaper, with smaller pictures, shorter texts or patches left out."""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipjax.config.training import Config


@dataclass(frozen=True)
class StageConfig:
    """A `share` of the run's steps with what is set here in place of the config's own.

    Stages come in order from the first step on; what they leave of the run is the config itself.
    """

    share: float = 0.0
    image_size: int | None = None
    context_length: int | None = None
    patch_dropout: float | None = None

    def mistakes(self, config: "Config") -> list[str]:
        """What is wrong with the stage in a config, one line each."""
        rows, patch, context = [], config.model.image.patch_size, config.model.text.context_length
        if not 0 < self.share < 1:
            rows.append(f"share: {self.share} should be a share of the steps, more than 0 and less than 1")
        if self.image_size is not None and (self.image_size < 1 or self.image_size % patch):
            rows.append(f"image_size: {self.image_size} should be a multiple of model.image.patch_size={patch}")
        if self.context_length is not None and not 3 <= self.context_length <= context:
            rows.append(
                f"context_length: {self.context_length} should be at least 3 and at most "
                f"model.text.context_length={context}"
            )
        return rows + ([] if self.patch_dropout is None else patch_dropout_mistakes(self.patch_dropout, config))


def stage_ends(stages: Sequence[StageConfig], total_steps: int) -> list[int]:
    """The step at which each stage ends and the next one begins."""
    return [round(total_steps * share) for share in itertools.accumulate(stage.share for stage in stages)]


def stages_mistakes(config: "Config") -> list[str]:
    """What is wrong with the stages of a run, one line each."""
    rows = [f"stages.{i}.{row}" for i, stage in enumerate(config.stages) for row in stage.mistakes(config)]
    total = sum(stage.share for stage in config.stages)
    if not rows and total >= 1:
        rows.append(f"stages: their shares are {total:g} together and leave nothing of the run to the config itself")
    return rows


def patch_dropout_mistakes(share: float, config: "Config") -> list[str]:
    """A line if such a share of the patches cannot be left out of pictures."""
    if not 0 <= share < 1:
        return [f"patch_dropout: {share} should be a share of the patches, at least 0 and less than 1"]
    kind = config.model.image.kind
    if share and kind != "vit":
        return [f"patch_dropout: {share} should be 0 for a {kind}, which has no patches to leave out"]
    if share and config.freeze == "image":
        return [f"patch_dropout: {share} should be 0 with freeze='image': a frozen tower sees whole pictures"]
    return []


def at_stage(config: "Config", stage: StageConfig) -> "Config":
    """The config with what a stage sets; its model has the sizes of what it is fed, not those of its tables."""
    image, text = config.model.image, config.model.text
    if stage.image_size is not None:
        image = dataclasses.replace(image, image_size=stage.image_size)
    if stage.context_length is not None:
        text = dataclasses.replace(text, context_length=stage.context_length)
    model = dataclasses.replace(config.model, image=image, text=text)
    dropped = config.patch_dropout if stage.patch_dropout is None else stage.patch_dropout
    return dataclasses.replace(config, model=model, patch_dropout=dropped, stages=())
