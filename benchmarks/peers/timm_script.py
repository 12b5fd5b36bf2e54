"""Fine-tuning as timm and torchvision are commonly used: an image folder and a training loop.

`benchmarks.time_to_accuracy` runs it. Prints the validation accuracy, a fraction, after each epoch. Shares no
code with the project.
"""

import argparse

import timm
import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("weights")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    model = timm.create_model(args.backbone)
    model.load_state_dict(torch.load(args.weights, weights_only=True))
    cfg = timm.data.resolve_model_data_config(model)
    normalise = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(cfg["mean"], cfg["std"])]
    augment = [v2.RandomResizedCrop(args.size, scale=(0.5, 1.0)), v2.RandomHorizontalFlip()]
    resize = [v2.Resize(args.size), v2.CenterCrop(args.size)]
    train = ImageFolder(f"{args.folder}/train", v2.Compose([*augment, *normalise]))
    val = ImageFolder(f"{args.folder}/val", v2.Compose([*resize, *normalise]))
    model.reset_classifier(len(train.classes))
    model.to(memory_format=torch.channels_last)
    train_batches = torch.utils.data.DataLoader(train, 32, shuffle=True, drop_last=True)
    val_batches = torch.utils.data.DataLoader(val, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    steps = args.epochs * len(train_batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    for _ in range(args.epochs):
        model.train()
        for images, labels in train_batches:
            images = images.to(memory_format=torch.channels_last)
            loss = torch.nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        correct = 0
        with torch.inference_mode():
            for images, labels in val_batches:
                logits = model(images.to(memory_format=torch.channels_last))
                correct += int((logits.argmax(1) == labels).sum())
        print(correct / len(val), flush=True)


if __name__ == "__main__":
    main()
