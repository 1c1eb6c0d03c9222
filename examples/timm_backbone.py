"""Any model of timm as a backbone, with a BNNeck head, in your own training loop."""

import torch
import torch.nn.functional as F

import reidzoo
from reidzoo.training.losses import batch_hard_triplet


def main() -> None:
    torch.manual_seed(0)
    model = reidzoo.create_model("timm/test_resnet", head="bnneck", num_classes=4, img_size=(64, 32))
    images, pids = torch.rand(16, 3, 64, 32), torch.arange(4).repeat_interleave(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(5):
        output = model.train()(images)
        loss = F.cross_entropy(output.logits[0], pids) + batch_hard_triplet(output.features[0], pids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step} loss {loss.item():.3f}")
    print(f"embedding {tuple(model.eval()(images).shape)}")


if __name__ == "__main__":
    main()
