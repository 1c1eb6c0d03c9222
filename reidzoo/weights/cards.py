"""Model cards: what a model is, where its weights come from, what they may be used for, and how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from reidzoo._version import __version__
from reidzoo.errors import ConfigError, UnknownModelError
from reidzoo.models import ModelSpec, model_info
from reidzoo.weights import licenses

_METRICS = ("mAP", "mINP", "Rank-")

_CARD = """\
---
{header}
---

# {title}

{what}

```python
import reidzoo

# (B, 3, {height}, {width}) -> (B, {width_out})
model = reidzoo.weights.from_pretrained("<this repository or folder>").eval()
transform = reidzoo.create_transform(model)  # PIL image -> normalised (3, {height}, {width})
```

## Where the weights come from

{provenance}

Written by reidzoo {version}.

## Intended use and limits

The model maps the image of one person, cut out, to a vector; images of the same person should lie close together. It is
meant for research on person re-identification, and for retrieval in images of people who know of it or where there is
a legal basis. It does not know who anybody is, and a match is a suggestion that a person has to look at: it is no
evidence of identity.

Do not use it to monitor, track or identify individuals without a legal basis and without their knowledge. Images of
people are personal data: keep to the law of the place, and to what the people in them agreed to.

How well it works on other people, cameras, clothes, seasons and countries than those of its training data has not been
measured here, nor has how errors are spread over groups of people; expect both to be worse than any table says.

## Results

{results}

## Licence

{terms}

## Citation

{citation}
"""


def weights_license(model: nn.Module) -> str:
    """Return the id of the licence that the weights of a model are under: "" for random ones, or your own.

    Args:
        model: A model of `reidzoo.create_model`, with or without head.
    """
    return str(getattr(backbone_of(model), "weights_license", "") or "")


def model_card(model: nn.Module, *, metrics: Mapping[str, Any] | None = None, license: str = "unknown") -> str:
    """Return a model card: Markdown behind the YAML header that the Hugging Face hub reads.

    Args:
        model: A model of `reidzoo.create_model`.
        metrics: Results by data set, e.g. ``{"Market-1501": reidzoo.evaluate(...)}`` or
            ``{"Market-1501": {"mAP": 0.937, "Rank-1": 0.969}}``: mAP, mINP and Rank-k as fractions in [0, 1].
        license: Licence that you give weights of your own, in the hub's spelling, e.g. ``"apache-2.0"``. That reidzoo's
            code is under Apache-2.0 says nothing about weights, hence ``"unknown"``. Weights that are under somebody's
            licence keep that one.

    Raises:
        ConfigError: The model is not of `create_model`, the metrics are none, or `license` contradicts the weights'.
    """
    backbone: Any = backbone_of(model)
    name = getattr(backbone, "reidzoo_name", "")
    if not name:
        raise ConfigError(
            f"{type(backbone).__name__} was not built by reidzoo.create_model, so there is nothing to say about it and "
            f"no way to build it again. Keep its tensors with safetensors.torch.save_model."
        )
    if (licensed := weights_license(model)) and license not in ("unknown", licensed):
        raise ConfigError(
            f"The weights are under the licence {licensed!r}, which nobody but its owners can turn into {license!r}: "
            f"leave out license=..."
        )
    spec = _spec(name)
    results = {dataset: _fractions(dataset, result) for dataset, result in (metrics or {}).items()}
    _, height, width = backbone.pretrained_cfg["input_size"]
    return _CARD.format(
        header=_header(name, spec, licensed or license, results),
        title=f"{name} for person re-identification",
        what=_what(model, name, spec),
        height=height,
        width=width,
        width_out=getattr(model, "embed_dim", "D"),
        provenance=_provenance(name, licensed),
        version=__version__,
        results=_table(results) or "None were given.",
        terms=_terms(licensed, license),
        citation=_citation(licensed, name),
    )


def backbone_of(model: nn.Module) -> Any:
    """Return the backbone of a model, which is the model itself where there is no head.

    Args:
        model: A model of `reidzoo.create_model`.
    """
    from reidzoo.models.heads import ReIDModel

    return model.backbone if isinstance(model, ReIDModel) else model


def _spec(name: str) -> ModelSpec | None:
    """The row of the zoo; None for a network of timm."""
    try:
        return model_info(name)
    except UnknownModelError:
        return None


def _header(name: str, spec: ModelSpec | None, license: str, results: Mapping[str, Mapping[str, float]]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    fields: dict[str, Any] = {"license": license}
    if license in licenses.LICENSES:
        terms = licenses.get(license)
        fields = {
            "license": "other",
            "license_name": license,
            "license_link": terms.url,
            # Shown to whoever asks for access, where the repository is gated.
            "extra_gated_prompt": terms.text(),
        }
    if results:
        fields["model_name"] = name
        fields["eval_results"] = [
            EvalResult(
                task_type="image-feature-extraction",
                dataset_type=dataset.lower().replace(" ", "-"),
                dataset_name=dataset,
                metric_type=metric,
                metric_name=f"{metric} (%)",
                metric_value=round(100 * value, 2),
            )
            for dataset, values in results.items()
            for metric, value in values.items()
        ]
    data = ModelCardData(
        library_name="reidzoo",
        pipeline_tag="image-feature-extraction",
        tags=["person-re-identification", "reid", *([spec.family.replace("_", "-")] if spec else ["timm"])],
        **fields,
    )
    return str(data.to_yaml()).strip()


def _what(model: Any, name: str, spec: ModelSpec | None) -> str:
    known = f"{spec.published_name}, {spec.params_m:.2f} M parameters" if spec else f"the network {name[5:]!r} of timm"
    head = getattr(backbone_of(model) is not model and model.head, "name", None)
    what = f"A person re-identification {'model' if head else 'backbone'}: `{name}` ({known})"
    return f"{what} with a {head!r} head for {model.head.num_classes} identities." if head else f"{what}."


def _provenance(name: str, licensed: str) -> str:
    if licensed:
        return (
            f"They are, or were trained from, weights under the licence `{licensed}`: {licenses.get(licensed).covers}. "
            "Files that reidzoo writes keep that note in their header through fine-tuning and conversion."
        )
    start = " It may have been started from timm's weights, which have terms of their own." if "timm/" in name else ""
    return (
        "The model carries no note of weights under a licence that reidzoo knows, so they were started at random or "
        f"come from whoever saved it.{start} Add here on which images it was trained, and with whose consent."
    )


def _terms(licensed: str, license: str) -> str:
    if licensed:
        return "\n".join(f"> {line}".rstrip() for line in licenses.get(licensed).text().splitlines())
    if license == "unknown":
        return "The weights came without a statement. Ask whoever published them before you use them."
    return f"The weights: {license}. The code of reidzoo: Apache-2.0."


def _citation(licensed: str, name: str) -> str:
    paper = f"{licenses.get(licensed).citation}.\n\n" if licensed else ""
    timm = "timm (Wightman, PyTorch Image Models), which has the network" if name.startswith("timm/") else ""
    return f"{paper}The package: reidzoo {__version__}, see its CITATION.cff{f'; {timm}' if timm else ''}."


def _fractions(dataset: str, result: Any) -> dict[str, float]:
    """mAP, mINP and Rank-k of an `EvalResult` or a mapping."""
    values: Mapping[str, Any] = result if isinstance(result, Mapping) else getattr(result, "to_dict", dict)()
    found = {key: float(values[key]) for key in values if key.startswith(_METRICS)}
    wrong = {key: value for key, value in found.items() if not 0 <= value <= 1}
    if not found or wrong:
        raise ConfigError(
            f"metrics[{dataset!r}] is to be an EvalResult, or mAP, mINP and Rank-k as fractions in [0, 1], e.g. "
            f"{{'mAP': 0.937, 'Rank-1': 0.969}}; found {wrong or result!r}."
        )
    return found


def _table(results: Mapping[str, Mapping[str, float]]) -> str:
    if not results:
        return ""
    columns = list(dict.fromkeys(metric for values in results.values() for metric in values))
    lines = [["data set", *columns], ["---"] * (len(columns) + 1)]
    for dataset, values in results.items():
        lines.append([dataset, *(f"{100 * values[c]:.1f}" if c in values else "" for c in columns)])
    return "In percent, by the protocol of each data set:\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in lines)
