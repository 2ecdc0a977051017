"""Trained vision transformers that spend less on easy images.

Importing the package registers its configs and models with the Auto classes of transformers, and its pipeline
for image classification.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from quee_hf.backbones.t2t_vit import (
    T2TViTConfig,
    T2TViTForImageClassification,
    T2TViTModel,
    load_t2t_vit_checkpoint,
    t2t_vit_image_processor,
)
from quee_hf.certification import certify
from quee_hf.configuration import QuEEConfig
from quee_hf.diagnostics.drift import DriftMonitor
from quee_hf.diagnostics.drift_recording import record_drift_reference
from quee_hf.errors import (
    BadDatasetError,
    BadImageError,
    IncompatibleCheckpointError,
    MissingExtraError,
    NotReadyError,
    OutdatedError,
    QuEEError,
    UnsupportedBackboneError,
)
from quee_hf.execution.budget import BudgetController
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.outputs import QuEEImageClassifierOutput
from quee_hf.pretrained import QuEEPreTrainedModel
from quee_hf.profile import profile
from quee_hf.quantize import add_level, calibrate, load_calibration, quantize, save_calibration
from quee_hf.registration import register_pipeline
from quee_hf.training import ErrorTargets, ExitHeadTrainer, GateTrainer, recommended_arguments

__all__ = [
    "BadDatasetError",
    "BadImageError",
    "BudgetController",
    "DriftMonitor",
    "ErrorTargets",
    "ExitHeadTrainer",
    "GateTrainer",
    "IncompatibleCheckpointError",
    "MissingExtraError",
    "NotReadyError",
    "OutdatedError",
    "QuEEConfig",
    "QuEEError",
    "QuEEForImageClassification",
    "QuEEImageClassifierOutput",
    "QuEEPreTrainedModel",
    "T2TViTConfig",
    "T2TViTForImageClassification",
    "T2TViTModel",
    "UnsupportedBackboneError",
    "add_level",
    "calibrate",
    "certify",
    "load_calibration",
    "load_t2t_vit_checkpoint",
    "profile",
    "quantize",
    "recommended_arguments",
    "record_drift_reference",
    "save_calibration",
    "t2t_vit_image_processor",
]

AutoConfig.register(QuEEConfig.model_type, QuEEConfig, exist_ok=True)
AutoModelForImageClassification.register(QuEEConfig, QuEEForImageClassification, exist_ok=True)
AutoConfig.register(T2TViTConfig.model_type, T2TViTConfig, exist_ok=True)
AutoModel.register(T2TViTConfig, T2TViTModel, exist_ok=True)
AutoModelForImageClassification.register(T2TViTConfig, T2TViTForImageClassification, exist_ok=True)
register_pipeline()
