"""Find a person in a folder of images: features of a query, features of the others, the nearest first.

Images are drawn here, so that the script runs as it is; put your own folder and your own weights in their place.
"""

from pathlib import Path

import reidzoo
from reidzoo.eval import search


def main() -> None:
    crops = reidzoo.data.write_synthetic("crops", identities=10, layout="folder", images=2)
    query, *gallery = sorted(Path(crops).rglob("*.jpg"))

    # With ResNet50_IBN.pth from the ReIDZoo authors: create_model("resnet50_ibn", weights="ResNet50_IBN.pth").
    model = reidzoo.create_model("ghostnet_0_5", img_size=(128, 64))
    features = reidzoo.extract_features(model, [query, *gallery], num_workers=0)

    distances, rows = search(features[:1], features[1:], k=5)
    print(f"query {query.relative_to(crops)}")
    for distance, row in zip(distances[0], rows[0], strict=True):
        print(f"{distance:.3f} {gallery[row].relative_to(crops)}")


if __name__ == "__main__":
    main()
