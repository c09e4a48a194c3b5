"""Find a published shortcut in a real network: EfficientNet-Lite0 takes a Chinese watermark for a carton.

ImageNet has many photographs of cartons with such watermarks, and networks trained on it learn them (ImageNet-W, Li et
al. 2023). This example lays one over pictures of animals and fruit, asks how likely a carton has become, and which
patches the network relies on for that answer.

    pip install fitb-callbacks[photos]
    apt install fonts-noto-color-emoji fonts-droid-fallback
    python examples/watermark.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from fitb_callbacks.models.chunks import in_chunks
from fitb_callbacks.models.pretrained import efficientnet_lite0
from fitb_callbacks.plotting.tiles import overlay, to_rgb
from fitb_callbacks.probing.masks import hidden_patches
from fitb_callbacks.probing.reliance import reliance
from fitb_callbacks.utils.patch_grid import PatchGrid

CARTON = 478
PICTURES = "🐶🦁🐯🐴🐮🐷🐘🐰🐻🐼🐔🐧🐸🐢🦋🐝🍇🍉🍋🍌🍍🍎🍓🥕"
EMOJI = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
CHINESE = "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf"
SIDE, HEIGHT, LEFT, TOP = 224, 36, 2, 90
GRID = PatchGrid(SIDE, SIDE, patch_size=16)


def main() -> None:
    """Compare the pictures with and without the mark, then hide patches of those with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--font", default=CHINESE, help="a font with Chinese characters")
    parser.add_argument("--masks", type=int, default=256, help="random masks a picture")
    parser.add_argument("--hidden", type=int, default=4, help="how many pictures to hide patches of")
    parser.add_argument("--output", type=Path, default=Path("watermark.png"), help="the picture")
    settings = parser.parse_args()
    model, pictures = efficientnet_lite0(), torch.stack([picture(emoji) for emoji in PICTURES])
    chinese, latin = (marked(pictures, text, settings.font) for text in ("捷径" * 6, "shortcut" * 6))
    for name, images in (("no mark", pictures), ("Latin letters", latin), ("Chinese characters", chinese)):
        probability, rank = carton(model, images)
        print(f"{name:20} p(carton) {probability:.5f}, median rank among 1,000 classes {rank:.0f}")

    probed = chinese[: settings.hidden]
    maps = reliance_on_carton(model, probed, settings.masks).view(-1, GRID.rows, GRID.columns)
    under = slice(TOP // GRID.patch_size, (TOP + HEIGHT) // GRID.patch_size + 1)
    found, area = maps[:, under].sum().item() / len(maps), (under.stop - under.start) / GRID.rows
    print(f"{found:.0%} of what the answer carton relies on is under the mark, on {area:.0%} of the picture")
    save(probed, maps, settings.output)


def picture(emoji: str) -> Tensor:
    """An emoji on grey-green, in the network's input space, shape ``(3, 224, 224)``."""
    glyph = Image.new("RGBA", (136, 128))
    font = ImageFont.truetype(EMOJI, 109)  # the one size that its bitmaps come in
    ImageDraw.Draw(glyph).text((0, 0), emoji, font=font, embedded_color=True)
    glyph = glyph.resize((200, 188))
    canvas = Image.new("RGB", (SIDE, SIDE), (200, 210, 190))
    canvas.paste(glyph, (12, 18), glyph)
    return (torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() - 127) / 128


def reliance_on_carton(model: nn.Module, images: Tensor, num_masks: int) -> Tensor:
    """How much each patch's absence makes a carton less likely, shape ``(N, patches)``; forward passes only."""
    hidden = hidden_patches(torch.arange(num_masks), GRID, mask_ratio=0.25, seed=0)
    visible = GRID.to_pixels(~hidden)[:, None]
    blank = images.mean(dim=(0, 2, 3))[:, None, None]
    log_p = [in_chunks(model, torch.where(visible, image, blank)).log_softmax(dim=1)[:, CARTON] for image in images]
    return reliance(hidden, torch.stack(log_p, dim=1))


def save(images: Tensor, maps: Tensor, path: Path) -> None:
    """The pictures, and below each what the answer carton relies on."""
    low, high = -torch.ones(3, 1, 1), torch.ones(3, 1, 1)
    above = np.concatenate([to_rgb(image, low, high) for image in images], axis=1)
    below = np.concatenate(
        [overlay(image, of[None], low, high) for image, of in zip(images, maps, strict=True)], axis=1
    )
    Image.fromarray(np.concatenate((above, below))).save(path)
    print(f"The picture: {path}")


def marked(images: Tensor, text: str, font: str) -> Tensor:
    """Images with a line of half-opaque white text over them."""
    canvas = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(canvas).text((LEFT, TOP), text, fill=255, font=ImageFont.truetype(font, HEIGHT))
    opacity = torch.from_numpy(np.array(canvas)) / 255 / 2
    return torch.lerp(images, torch.ones(()), opacity)


def carton(model: nn.Module, images: Tensor) -> tuple[float, float]:
    """Mean probability of the class carton, and its median rank; 1 is the network's first choice."""
    with torch.no_grad():
        probabilities = model(images).softmax(dim=1)
    ranks = (probabilities > probabilities[:, CARTON : CARTON + 1]).sum(dim=1) + 1
    return probabilities[:, CARTON].mean().item(), ranks.float().median().item()


if __name__ == "__main__":
    main()
