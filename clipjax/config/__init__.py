"""What a run is made of: frozen dataclasses, checked once in `resolve`."""

from clipjax.config.data import DataConfig
from clipjax.config.mesh import MeshConfig
from clipjax.config.model import ImageConfig, ModelConfig, TextConfig, differences, model_values
from clipjax.config.optimizer import OptimizerConfig
from clipjax.config.presets import preset, preset_names
from clipjax.config.resolve import as_configdict, as_json, default_config, from_json, judge_devices, resolve
from clipjax.config.stages import StageConfig
from clipjax.config.training import Config, LossConfig

__all__ = [
    "Config",
    "DataConfig",
    "ImageConfig",
    "LossConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "StageConfig",
    "TextConfig",
    "as_configdict",
    "as_json",
    "default_config",
    "differences",
    "from_json",
    "judge_devices",
    "model_values",
    "preset",
    "preset_names",
    "resolve",
]
