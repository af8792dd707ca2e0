"""Train the model that `patchloom demo` runs, export it as ONNX, and measure it on scenes that it has not seen.

    python training/train_demo.py

Needs the packages torch and onnx. Takes a quarter of an hour on one core; writes ``src/patchloom/demo/demo.onnx`` and
``training/demo_metrics.json``, which `training/README.md` quotes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from numpy.typing import NDArray
from torch import Tensor, nn

from patchloom.demo.quality import Confusion
from patchloom.demo.scenes import CLASSES, Scene

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "src" / "patchloom" / "demo" / "demo.onnx"

TRAINING_SEED = 100_000
HELD_OUT_SEED = 500_000
"""The demonstration's own scenes have seeds below 1,000."""
BLOCK = 512
CROP = 224

Pixels = NDArray[np.uint8]


class Net(nn.Module):
    """Down to an eighth of the resolution, and back up with what was seen at a quarter and at a half.

    Takes ``(N, 3, Y, X)`` float32 in 0 … 1, Y and X multiples of 8, and answers ``(N, 6, Y, X)`` scores before softmax.
    """

    def __init__(self, fine: int = 16, middle: int = 32, coarse: int = 48) -> None:
        super().__init__()
        self.fine = _layer(3, fine, 5, 2)
        self.middle = _layer(fine, middle, 3, 2)
        self.coarse = nn.Sequential(_layer(middle, coarse, 3, 2), *(_layer(coarse, coarse, 3, 1) for _ in range(3)))
        self.coarse_to_middle = nn.ConvTranspose2d(coarse, middle, 2, 2)
        self.mixed = _layer(middle, middle, 3, 1)
        self.middle_to_fine = nn.ConvTranspose2d(middle, fine, 2, 2)
        self.scores = nn.ConvTranspose2d(fine, len(CLASSES), 4, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.fine(image)
        middle = self.middle(fine)
        mixed = self.mixed(F.relu(self.coarse_to_middle(self.coarse(middle)) + middle))
        return self.scores(F.relu(self.middle_to_fine(mixed) + fine))


def _layer(channels: int, filters: int, size: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(channels, filters, size, stride, size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(filters), nn.ReLU(inplace=True))


def blocks(count: int, seed: int) -> tuple[Pixels, Pixels]:
    """Blocks out of many scenes, as a JPEG file gives them back: ``(count, 3, 512, 512)`` and their truth."""
    rng = np.random.default_rng(seed)
    images = np.empty((count, 3, BLOCK, BLOCK), np.uint8)
    truths = np.empty((count, BLOCK, BLOCK), np.uint8)
    for i in range(count):
        side = int(rng.choice([1536, 2560, 8192]))
        scene = Scene("training", (side, side), seed + i)
        top, left = (int(rng.integers(0, side - BLOCK) // 4 * 4) for _ in range(2))
        rgb, truths[i] = scene.block(top, left, BLOCK, BLOCK)
        images[i] = compressed(rgb, int(rng.integers(70, 95))).transpose(2, 0, 1)
    return images, truths


def compressed(rgb: Pixels, quality: int) -> Pixels:
    """What is left of an image after JPEG."""
    encoded = imagecodecs.jpeg8_encode(rgb, level=quality, subsampling="420")
    return np.asarray(imagecodecs.jpeg8_decode(encoded))


def batches(images: Pixels, truths: Pixels, steps: int, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random crops, turned, mirrored, and with other colours, brightness and noise."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        inputs, targets = [], []
        for i in rng.integers(0, len(images), size):
            y, x = rng.integers(0, BLOCK - CROP, 2)
            image, truth = images[i, :, y : y + CROP, x : x + CROP], truths[i, y : y + CROP, x : x + CROP]
            turns, mirror = int(rng.integers(4)), int(rng.integers(2))
            image, truth = np.rot90(image, turns, (1, 2)), np.rot90(truth, turns)
            inputs.append(recoloured(image[:, :: 1 - 2 * mirror], rng))
            targets.append(truth[:: 1 - 2 * mirror].astype(np.int64))
        yield torch.from_numpy(np.stack(inputs)), torch.from_numpy(np.stack(targets))


def recoloured(image: Pixels, rng: np.random.Generator) -> NDArray[np.float32]:
    """Another gain and gamma on each channel, and a little noise."""
    gain, gamma = rng.uniform(0.92, 1.06, (2, 3, 1, 1)).astype(np.float32)
    values = (image.astype(np.float32) / 255) ** (gamma**2) * gain
    values += rng.uniform(0, 0.015) * rng.standard_normal(values.shape, np.float32)
    return np.clip(values, 0, 1)


def train(net: Net, images: Pixels, truths: Pixels, steps: int, size: int) -> None:
    optimiser = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps, pct_start=0.15)
    start, mean = time.monotonic(), 1.0
    for step, (inputs, targets) in enumerate(batches(images, truths, steps, size, seed=1), 1):
        loss = F.cross_entropy(net(inputs.to(memory_format=torch.channels_last)), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        mean += 0.02 * (loss.item() - mean)
        if step % 50 == 0:
            print(f"step {step:5} of {steps}   loss {mean:.4f}   {time.monotonic() - start:.0f} s", flush=True)


def export(net: Net, path: Path) -> None:
    """Write the network with its batch normalisation folded in and the names of its classes."""
    net.eval()
    axes = {0: "batch", 2: "y", 3: "x"}
    torch.onnx.export(
        net.to(memory_format=torch.contiguous_format), (torch.zeros(1, 3, 64, 64),), str(path), dynamo=False,
        opset_version=17, input_names=["image"], output_names=["tissue"], dynamic_axes={"image": axes, "tissue": axes},
    )
    model = onnx.load(path)
    for key, value in {"classes": ",".join(CLASSES), "scale": "255", "spacing": "1 micrometer"}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    onnx.save(model, path)


def measure(path: Path, scenes: int) -> dict[str, Any]:
    """Quality of the exported file on whole held-out scenes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    confusion = Confusion.empty(CLASSES)
    for i in range(scenes):
        rgb, truth = Scene("held out", (2048, 2048), HELD_OUT_SEED + i).block(0, 0, 2048, 2048)
        image = compressed(rgb, 85).transpose(2, 0, 1)[None].astype(np.float32) / 255
        (scores,) = session.run(None, {"image": image})
        confusion = confusion + Confusion.of(CLASSES, truth, scores[0].argmax(0))
    return {
        "held_out_scenes": scenes, "pixels": int(confusion.counts.sum()), "mean_iou": round(confusion.mean_iou, 4),
        "accuracy": round(confusion.accuracy, 4), "iou": {name: round(iou, 4) for name, iou in confusion.iou.items()},
        "model_bytes": path.stat().st_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=600, help="blocks of 512 x 512 pixels, each of another scene")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=16, help="crops of 224 x 224 pixels a step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--held-out", type=int, default=8, help="scenes of 2,048 x 2,048 pixels to measure on")
    parser.add_argument("--out", type=Path, default=MODEL)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    start = time.monotonic()
    net = Net().to(memory_format=torch.channels_last)
    images, truths = blocks(options.blocks, TRAINING_SEED)
    print(f"{options.blocks} blocks made in {time.monotonic() - start:.0f} s")
    train(net, images, truths, options.steps, options.batch)
    export(net, options.out)
    metrics = {"parameters": sum(p.numel() for p in net.parameters()), "training_blocks": options.blocks,
               "steps": options.steps, "minutes": round((time.monotonic() - start) / 60, 1)}
    metrics |= measure(options.out, options.held_out)
    text = json.dumps(metrics, indent=2) + "\n"
    metrics_file = HERE / "demo_metrics.json" if options.out == MODEL else options.out.with_suffix(".json")
    metrics_file.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
