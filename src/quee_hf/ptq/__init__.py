"""Post-training quantization: how scales and ranges are chosen. One method a file."""

from quee_hf.ptq.method import PTQMethod
from quee_hf.ptq.min_max import MinMax
from quee_hf.ptq.mse import MSE
from quee_hf.ptq.ptq4vit import PTQ4ViT
from quee_hf.ptq.repq import RepQ
from quee_hf.ptq.torch_dynamic import TorchDynamic

PTQ_METHODS: dict[str, type[PTQMethod]] = {
    method.name: method for method in (MinMax, MSE, PTQ4ViT, RepQ, TorchDynamic)
}
