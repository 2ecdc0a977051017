"""What the trunk needs to know of T2T-ViT."""

from transformers import PreTrainedConfig, PreTrainedModel

from quee_hf.backbones.family import BackboneFamily, SourceModel
from quee_hf.backbones.t2t_vit.embeddings import T2TViTEmbeddings
from quee_hf.backbones.t2t_vit.modeling import T2TViTForImageClassification
from quee_hf.backbones.t2t_vit.soft_split import token_grids
from quee_hf.backbones.vit import vit_modules, vit_shape
from quee_hf.errors import UnsupportedBackboneError


def _locate(model: PreTrainedModel) -> SourceModel:
    if not isinstance(model, T2TViTForImageClassification):
        raise UnsupportedBackboneError(
            f"{type(model).__name__} is not supported: T2T-ViT needs a ForImageClassification model."
        )
    return vit_modules(model.t2t_vit, model.classifier)


def _num_patches(_: PreTrainedConfig, height: int, width: int) -> int:
    rows, columns = token_grids(height, width)[-1]
    return rows * columns


T2T_VIT = BackboneFamily(
    shape=vit_shape,
    make_embeddings=T2TViTEmbeddings,
    num_prefix_tokens=lambda _: 1,
    pooling="cls",
    locate=_locate,
    num_patches=_num_patches,
)
