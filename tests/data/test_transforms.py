from __future__ import annotations

import colorsys
import math
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import functional as TF

from reidzoo.data import _pixel_ops as ops
from reidzoo.data.transforms import IMAGENET_MEAN as MEAN
from reidzoo.data.transforms import IMAGENET_STD as STD
from reidzoo.data.transforms import EvalTransform, MultiCrop, TrainTransform, _cut
from reidzoo.errors import ConfigError

BICUBIC = T.InterpolationMode.BICUBIC


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Images this small are slower with several threads, very much so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def picture(height: int = 128, width: int = 64, seed: int = 0) -> Image.Image:
    """A smooth colourful image with some grain."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (8, 4, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 6, (height, width, 3))
    return Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8))


def as_float(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().contiguous()


def noise(seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, 20, 12)).astype(np.float32))


# ---- single operations against independent definitions


@given(st.tuples(*[st.integers(0, 255)] * 3), st.floats(-1 / 6, 1 / 6))
def test_hue_is_a_turn_in_hsv(rgb: tuple[int, int, int], shift: float) -> None:
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in rgb))
    expected = torch.tensor(colorsys.hsv_to_rgb((h + shift) % 1, s, v)) * 255
    got = ops.adjust_hue(torch.tensor(rgb, dtype=torch.float64).view(3, 1, 1), shift).view(3)
    assert torch.allclose(got.float(), expected, atol=1e-3)


def test_hue_is_close_to_torchvision_on_pil() -> None:
    """Pillow's HSV has 8 bits; on an image that costs it a few levels."""
    image = picture()
    for shift in (-0.1, -0.03, 0.05, 0.1):
        difference = (ops.adjust_hue(as_float(image), shift) - as_float(TF.adjust_hue(image, shift))).abs()
        assert difference.mean() < 2
        assert difference.quantile(0.99) < 8


@pytest.mark.parametrize("seed", range(24))
def test_color_jitter_is_torchvisions(seed: int) -> None:
    """The same draws, applied by torchvision's float functions."""
    rng = np.random.default_rng(seed)
    factors = [rng.uniform(1 - s, 1 + s) for s in (0.4, 0.4, 0.2)]
    steps = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue]
    values = [*factors, rng.uniform(-0.1, 0.1)]
    expected = as_float(picture()) / 255
    for step in rng.permutation(4):
        expected = steps[step](expected, values[step])
    jitter = ops.draw_jitter(np.random.default_rng(seed), brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    got = ops.color_jitter(as_float(picture()), jitter)
    assert (got / 255 - expected).abs().max() < 2e-3


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.6, 1.0, 1.5, 2.0])
def test_blur_is_pillows(sigma: float) -> None:
    image = picture()
    expected = as_float(image.filter(ImageFilter.GaussianBlur(sigma)))
    got = ops.gaussian_blur(as_float(image), sigma)
    assert (got - expected).abs().max() < 4  # Pillow rounds between its passes
    assert (got - expected).abs().mean() < 1
    assert torch.allclose(ops.gaussian_blur(torch.full((3, 9, 9), 7.0), sigma), torch.tensor(7.0))


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.2, 2.0])
def test_blur_has_the_variance_that_it_says(sigma: float) -> None:
    point = torch.zeros(1, 41, 41, dtype=torch.float64)
    point[0, 20, 20] = 1
    spread = ops.gaussian_blur(point, sigma)[0]
    position = torch.arange(41) - 20.0
    assert (spread.sum(1) * position**2).sum() == pytest.approx(sigma**2, rel=1e-6)
    assert torch.allclose(spread, spread.flip(0), atol=1e-12)
    assert torch.allclose(spread, spread.T, atol=1e-12)


def test_resize_is_pillows() -> None:
    for size in ((128, 64), (256, 128), (384, 192)):
        image = picture(*size)
        box = (3, 5, size[1] - 9, size[0] - 7)
        expected = as_float(image.crop(box).resize((64, 128), Image.Resampling.BICUBIC))
        pixels = ops.to_pixels(image)[:, box[1] : box[3], box[0] : box[2]]
        assert (ops.resize(pixels, (128, 64), "bicubic").float() - expected).abs().max() <= 2


def sample_crops(height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], n: int) -> tuple:
    rng = np.random.default_rng(0)
    mine = np.array([ops.crop_box(height, width, scale, ratio, rng) for _ in range(n)], dtype=float)
    torch.manual_seed(0)
    blank = torch.empty(3, height, width)
    theirs = np.array([T.RandomResizedCrop.get_params(blank, list(scale), list(ratio)) for _ in range(n)], dtype=float)
    return mine, theirs


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (256, 128, (0.05, 0.8), (0.4, 0.6)),
        (256, 128, (0.8, 1.0), (0.4, 0.6)),
        (90, 60, (0.8, 1.0), (0.4, 0.6)),
        (40, 90, (0.8, 1.0), (0.4, 0.6)),
        (200, 200, (0.1, 0.3), (0.4, 2.5)),
    ],
)
def test_crops_have_torchvisions_distribution(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    mine, theirs = sample_crops(height, width, scale, ratio, 3000)
    for column in range(4):
        a, b = mine[:, column], theirs[:, column]
        error = math.hypot(a.std(), b.std()) / math.sqrt(3000)
        assert abs(a.mean() - b.mean()) <= 4.5 * error
        assert abs(a.std() - b.std()) <= 0.1 * b.std() + 0.2
    assert (mine[:, 0] + mine[:, 2]).max() <= height
    assert (mine[:, 1] + mine[:, 3]).max() <= width


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 20))
@settings(max_examples=50)
def test_crops_of_any_image_stay_inside(height: int, width: int, seed: int) -> None:
    top, left, h, w = ops.crop_box(height, width, (0.05, 0.8), (0.25, 0.4), np.random.default_rng(seed))
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h >= 1
    assert w >= 1


# ---- MultiCrop


def blur(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(float(torch.empty(1).uniform_(0.1, 2))))


def published(size: tuple[int, int], scale: tuple[float, float], p_blur: float, p_solarize: float) -> T.Compose:
    """The published composition, from torchvision's and Pillow's own operations."""
    return T.Compose([
        T.RandomResizedCrop(size, scale, (0.4, 0.6), BICUBIC), T.RandomHorizontalFlip(),
        T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8), T.RandomGrayscale(0.2),
        T.RandomApply([T.Lambda(blur)], p_blur), T.RandomSolarize(128, p_solarize),
        T.ToTensor(), T.Normalize(MEAN, STD),
    ])  # fmt: skip


def statistics(view: Tensor) -> list[float]:
    """What an augmentation changes: colour, contrast, greyness, sharpness, inversion, position."""
    v = view * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    return [
        *v.mean((1, 2)).tolist(), *v.std((1, 2)).tolist(), float(v.max()), float(v.min()),
        float((v[0] - v[1]).abs().mean()), float((v[1] - v[2]).abs().mean()), float((v[0] - v[1]).abs().max() < 0.004),
        float((v[:, :, 1:] - v[:, :, :-1]).abs().mean()), float((v[:, 1:] - v[:, :-1]).abs().mean()),
        float(v[:, :, 0].mean() - v[:, :, -1].mean()), float(v[:, 0].mean() - v[:, -1].mean()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("which", "size", "scale", "p_blur", "p_solarize"),
    [(0, (64, 32), (0.8, 1.0), 1.0, 0.0), (1, (64, 32), (0.8, 1.0), 0.1, 0.2), (2, (32, 16), (0.05, 0.8), 0.5, 0.0)],
)
def test_views_have_the_published_distribution(
    which: int, size: tuple[int, int], scale: tuple[float, float], p_blur: float, p_solarize: float
) -> None:
    image, n = picture(64, 32), 600
    reference = published(size, scale, p_blur, p_solarize)
    crops = MultiCrop((64, 32), (32, 16), 1, ratio=(0.4, 0.6))
    rng = np.random.default_rng(0)
    torch.manual_seed(0)

    def make() -> torch.Tensor:
        pixels, view = ops.to_pixels(image), crops.views[which]
        draw = crops._draw(view, *pixels.shape[1:], rng)
        return crops._color(_cut(pixels, view.size, draw), draw)

    mine = np.array([statistics(make()) for _ in range(n)])
    theirs = np.array([statistics(reference(image)) for _ in range(n)])
    error = np.hypot(mine.std(0), theirs.std(0)) / math.sqrt(n)
    # 4.5 standard errors, and half a grey level for what Pillow rounds.
    assert (abs(mine.mean(0) - theirs.mean(0)) <= 4.5 * error + 0.5 / 255).all()
    assert (abs(mine.std(0) - theirs.std(0)) <= 0.18 * theirs.std(0) + 1 / 255).all()


def test_how_often_colours_change() -> None:
    """On an image of one colour nothing else shows: unchanged 0.2 x 0.8 of the time, grey 0.2 (x 0.8 solarised)."""
    flat = Image.new("RGB", (8, 16), (90, 60, 100))
    plain = EvalTransform((16, 8))(flat)
    crops, n = MultiCrop((16, 8), (8, 4), 1), 2000
    rng = np.random.default_rng(0)
    views = [crops(flat, rng) for _ in range(n)]

    def share(test: list[bool], expected: float) -> None:
        assert abs(np.mean(test) - expected) < 4.5 * math.sqrt(expected * (1 - expected) / n)

    for which in range(3):
        shown = [view[which] * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1) for view in views]
        share([torch.allclose(view[which][:, :4, :4], plain[:, :4, :4], atol=1e-3) for view in views], 0.16)
        share([float((v[0] - v[1]).abs().max() + (v[1] - v[2]).abs().max()) < 1e-4 for v in shown], 0.2)


def test_how_often_and_how_much_views_are_blurred() -> None:
    """A weak grey edge keeps its profile under all colour changes, so its width gives sigma."""
    edge = np.full((32, 32, 3), 110, dtype=np.uint8)
    edge[:, 16:] = 140
    crops = MultiCrop((32, 32), (32, 32), 1, global_scale=(1, 1), local_scale=(1, 1), ratio=(1, 1))
    crops.views = tuple(view._replace(solarize=0) for view in crops.views)
    rng, position, n = np.random.default_rng(0), np.arange(31) - 15.0, 1000
    sigmas = np.zeros((n, 3))
    for row in sigmas:
        for which, view in enumerate(crops(Image.fromarray(edge), rng)):
            step = np.diff(view[0, 16].double().numpy())
            row[which] = math.sqrt(max(0, float((step * position**2).sum() / step.sum())))
    blurred = sigmas > 0.09
    for which, p in enumerate((1.0, 0.1, 0.5)):
        assert abs(blurred[:, which].mean() - p) <= 4.5 * math.sqrt(p * (1 - p) / n)
    drawn = sigmas[blurred]
    assert drawn.min() == pytest.approx(0.1, abs=0.01)
    assert drawn.max() == pytest.approx(2.0, abs=0.01)
    assert drawn.mean() == pytest.approx(1.05, abs=4.5 * 1.9 / math.sqrt(12 * len(drawn)))


def test_views_shapes_order_and_reproducibility() -> None:
    crops = MultiCrop(local_crops=3)
    views = crops(picture(), np.random.default_rng(5))
    assert [tuple(v.shape) for v in views] == [(3, 256, 128)] * 2 + [(3, 128, 64)] * 3
    assert all(v.dtype == torch.float32 and v.is_contiguous() for v in views)
    again = pickle.loads(pickle.dumps(crops))(picture(), np.random.default_rng(5))
    assert all(torch.equal(a, b) for a, b in zip(views, again, strict=True))
    assert not torch.equal(views[0], views[1])


def test_colours_of_a_batch_are_those_of_each_image() -> None:
    """What is left to the device gives what the loader's processes would have given, for the same draws."""
    options = {"global_size": (64, 32), "local_size": (32, 16), "local_crops": 3}
    images = [picture(), picture().rotate(90, expand=True), *(picture().crop((0, 0, 40 + i, 90)) for i in range(30))]
    direct = [MultiCrop(**options)(image, np.random.default_rng(i)) for i, image in enumerate(images)]
    late = MultiCrop(**options, deferred=True)
    rows = [late(image, np.random.default_rng(i)) for i, image in enumerate(images)]
    assert all(view.dtype == torch.uint8 for row in rows for view in row[:-1])
    batch = [torch.stack(column) for column in zip(*rows, strict=True)]
    for i, view in enumerate(late.finish(batch)):
        torch.testing.assert_close(view, torch.stack([views[i] for views in direct]), rtol=0, atol=1e-3)


def test_views_do_not_depend_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            rng = np.random.default_rng(1)
            results.append([v for _ in range(5) for v in MultiCrop(local_crops=1)(picture(), rng)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_generator_defaults_to_torchs_random_state() -> None:
    crops = MultiCrop((32, 16), (16, 8), 1)
    torch.manual_seed(3)
    first = crops(picture())
    assert not torch.equal(first[0], crops(picture())[0])
    torch.manual_seed(3)
    assert torch.equal(first[0], crops(picture())[0])


@pytest.mark.parametrize(
    ("size", "ratio"),
    [((224, 224), (3 / 4, 4 / 3)), ((256, 128), (0.4, 0.6)), ([256, 128], (0.4, 0.6)), ((384, 128), (0.25, 0.4)),
     ((128, 64), (0.4, 0.6)), ((200, 200), (0.8, 1.2))],
)  # fmt: skip
def test_aspect_ranges(size: tuple[int, int], ratio: tuple[float, float]) -> None:
    assert MultiCrop(size).ratio == pytest.approx(ratio)


def test_only_the_second_view_is_solarised_and_blur_follows_the_table() -> None:
    views = MultiCrop(local_crops=2).views
    assert [v.solarize for v in views] == [0, 0.2, 0, 0]
    assert [v.blur for v in views] == [1, 0.1, 0.5, 0.5]


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P"])
@pytest.mark.parametrize(
    "transform", [MultiCrop((32, 16), (16, 8), 1), TrainTransform((32, 16)), EvalTransform((32, 16))]
)
def test_images_of_other_modes_are_seen_as_rgb(mode: str, transform: object) -> None:
    image = picture().convert(mode)
    ours, rgb = (transform(x, np.random.default_rng(0)) for x in (image, image.convert("RGB")))  # type: ignore[operator]
    for a, b in zip(ours, rgb, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_size": 256}, "global_size is 256"),
        ({"local_size": (0, 3)}, r"local_size is \(0, 3\); expected \(height, width\)"),
        ({"local_crops": -1}, "local_crops is -1"),
        ({"global_scale": (0.8, 1.2)}, r"global_scale is \(0.8, 1.2\); expected 0 < lower <= upper <= 1"),
        ({"ratio": (0.6, 0.4)}, "ratio is"),
        ({"std": (0.2, 0.2)}, "three numbers each"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MultiCrop(**options)


# ---- TrainTransform, EvalTransform


def test_eval_transform_is_torchvisions_composition() -> None:
    image = picture(100, 47)
    reference = T.Compose([T.Resize((256, 128)), T.ToTensor(), T.Normalize(MEAN, STD)])
    assert (EvalTransform()(image) - reference(image)).abs().max() < 1e-5


def test_train_transform_resizes_flips_and_normalises() -> None:
    image = picture(100, 47)
    resized = T.Compose([T.Resize((256, 128), BICUBIC), T.ToTensor(), T.Normalize((0.5,) * 3, (0.5,) * 3)])(image)
    transform = TrainTransform(mean=(0.5,) * 3, std=(0.5,) * 3, padding=0, erasing=0)
    flips = 0
    for seed in range(60):
        x = transform(image, np.random.default_rng(seed))
        flipped = bool((x - resized.flip(-1)).abs().mean() < (x - resized).abs().mean())
        assert (x - (resized.flip(-1) if flipped else resized)).abs().max() < 2.5 / 127.5
        flips += flipped
    assert 15 <= flips <= 45


def test_train_transform_shifts_into_black() -> None:
    white = Image.new("RGB", (16, 32), "white")
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    tops, lefts = set(), set()
    for seed in range(300):
        x = TrainTransform((32, 16), padding=3, erasing=0)(white, np.random.default_rng(seed))
        border = (x - black.view(3, 1, 1)).abs().amax(0) < 1e-4
        rows, columns = border.all(1), border.all(0)
        tops.add(int(rows.sum()) * (1 if rows[0] else -1))
        lefts.add(int(columns.sum()) * (1 if columns[0] else -1))
        assert int(rows.sum()) <= 3
        assert bool((border == (rows[:, None] | columns[None])).all())
    assert tops == lefts == set(range(-3, 4))


def erased(x: Tensor) -> tuple[float, float]:
    mask = (x != 0).any(0)
    height, width = int(mask.any(1).sum()), int(mask.any(0).sum())
    assert int(mask.sum()) == height * width  # one rectangle, all pixels
    return height * width / mask.numel(), math.log(height / width)


def test_random_erasing_has_timms_distribution() -> None:
    n, rng = 1500, np.random.default_rng(0)
    reference = RandomErasing(probability=1, mode="pixel", device="cpu")
    torch.manual_seed(0)
    mine = np.array([erased(ops.random_erasing(torch.zeros(3, 64, 32), rng)) for _ in range(n)])
    theirs = np.array([erased(reference(torch.zeros(3, 64, 32))) for _ in range(n)])
    error = np.hypot(mine.std(0), theirs.std(0)) / math.sqrt(n)
    assert (abs(mine.mean(0) - theirs.mean(0)) <= 4.5 * error).all()
    assert np.allclose(mine.std(0), theirs.std(0), rtol=0.1)
    x = ops.random_erasing(torch.zeros(3, 256, 256), np.random.default_rng(1))
    filled = x[:, (x != 0).any(0)]
    assert abs(float(filled.mean())) < 0.05
    assert float(filled.std()) == pytest.approx(1, abs=0.05)


def test_erasing_probability() -> None:
    plain = TrainTransform((32, 16), padding=0, erasing=0)
    half = TrainTransform((32, 16), padding=0, erasing=0.5)
    changed = sum(
        not torch.equal(plain(picture(), np.random.default_rng(s)), half(picture(), np.random.default_rng(s)))
        for s in range(200)
    )
    assert 70 <= changed <= 130
    with pytest.raises(ConfigError, match="erasing 2"):
        TrainTransform(erasing=2)
