"""Fine-tune and evaluate on your own images, listed in a CSV file: path, pid, split, camid.

The images are drawn, so that the script runs as it is. Two people are kept for the test, which is far too few.
"""

import csv
import re
from pathlib import Path

import reidzoo


def write_list(crops: Path) -> Path:
    """Give each image its split: the last two people are for testing, with camera 1's images as queries."""
    people = sorted(p for p in crops.iterdir() if p.is_dir())
    path = crops / "list.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "pid", "split", "camid"])
        for person in people:
            images = sorted(person.glob("*.jpg"))
            cameras = [int(re.search(r"_c(\d+)", image.name)[1]) for image in images]
            for image, camera in zip(images, cameras, strict=True):
                test = "query" if camera == cameras[0] else "gallery"
                split = test if person in people[-2:] else "train"
                table.writerow([image.relative_to(crops), person.name, split, camera])
    return path


def main() -> None:
    crops = reidzoo.data.write_synthetic("crops", identities=10, layout="folder", cameras=4, images=2)
    data = f"csv:{write_list(crops)}"
    print(reidzoo.load_dataset(data).summary())

    result = reidzoo.finetune(
        "ghostnet_0_5", data, output_dir="run", epochs=2, batch_size=16, img_size=(128, 64), num_workers=0
    )
    print(reidzoo.evaluate(result.model, data, num_workers=0).table())
    print(f'load it again: reidzoo.create_model("local-dir:{result.checkpoint.parent}")')


if __name__ == "__main__":
    main()
