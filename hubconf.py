"""The zoo through torch.hub, from a clone that need not be installed.

    model = torch.hub.load("path/to/the/clone", "resnet50_ibn", source="local")

One entry point per name of `reidzoo.list_models()`, with the arguments of `reidzoo.create_model`.
"""

from reidzoo import list_models as _list_models
from reidzoo import model_info as _model_info

dependencies = ["torch", "timm", "numpy", "safetensors", "huggingface_hub"]


def _entry_point(name):
    def entry(pretrained=False, **kwargs):
        from reidzoo import create_model

        return create_model(name, pretrained, **kwargs)

    spec = _model_info(name)
    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = (
        f"{spec.published_name}: (B, 3, H, W) images -> (B, {spec.embed_dim}) features, for images of "
        f"{spec.input_size[1]}x{spec.input_size[2]} pixels.\n\n"
        f"Args:\n"
        f"    pretrained: Load the released weights, which reidzoo's store or hub repository must have; their terms\n"
        f"        ({spec.license}) have to be accepted first. Without, the weights are random.\n"
        f"    **kwargs: As of `reidzoo.create_model`: weights, num_classes, head, img_size, features_only, ...\n"
    )
    return entry


for _name in _list_models():
    globals()[_name] = _entry_point(_name)
