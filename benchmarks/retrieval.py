"""A small contrastive model of images and captions, and how often it finds the caption of an image among others.

Radford et al. 2021 (CLIP), trained from the beginning on the training set; the measure is the R-precision of Xu et al.
2018 (AttnGAN, Sec. 4).
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.images import to_model_range
from ddpm.networks.settings import PAD, Tokenizer
from ddpm.networks.text_encoder import TextEncoder
from ddpm.text.tokenizer import encoded, learn

LENGTH = 16
"""Tokens of a caption that are read."""
HIDDEN = 0.15
"""Share of the tokens that training hides, so that no caption is known by a single word."""


class Contrastive(nn.Module):
    """Unit vectors of images and of captions; the cosine of two says whether they belong together."""

    def __init__(self, tokenizer: Tokenizer, *, channels: int, width: int = 32, dim: int = 128) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.words = TextEncoder(vocabulary=tokenizer.size, length=LENGTH, width=dim, layers=2, head_channels=32)
        self.of_words = nn.Linear(dim, dim)
        layers: list[nn.Module] = []
        for c_in, c_out in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU()]
            layers += [nn.Conv2d(c_out, c_out, 3, padding=1, stride=2), nn.BatchNorm2d(c_out), nn.ReLU()]
        self.picture = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(dim))
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    def of_texts(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.of_words(self.words(tokens)[1]), dim=1)

    def of_images(self, x: Tensor) -> Tensor:
        return F.normalize(self.picture(x), dim=1)


def train_contrastive(
    images: np.ndarray, captions: Sequence[str], *, epochs: int, batch: int = 256, seed: int = 0
) -> Contrastive:
    """Return a model trained on uint8 images [N,C,H,W] and their captions; an image matches every equal caption."""
    torch.manual_seed(seed)
    tokenizer = learn(captions, size=2000)
    model = Contrastive(tokenizer, channels=images.shape[1])
    x, tokens = torch.from_numpy(np.array(images)), torch.from_numpy(encoded(tokenizer, captions, length=LENGTH))
    model.of_images(to_model_range(x[:2]))  # gives the lazy layer its shape
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    for step in range(steps):
        if step % (len(x) // batch) == 0:
            order = torch.randperm(len(x))
        rows = order[(step * batch) % (len(x) // batch * batch) :][:batch]
        moved = to_model_range(x[rows]).roll(tuple(torch.randint(-2, 3, (2,)).tolist()), (2, 3))
        read = tokens[rows].masked_fill((torch.rand(batch, LENGTH) < HIDDEN) & (torch.arange(LENGTH) > 0), PAD)
        logits = model.log_scale.exp() * model.of_images(moved) @ model.of_texts(read).T
        same = (tokens[rows][:, None] == tokens[rows][None]).all(2).float()
        wanted = same / same.sum(1, keepdim=True)
        loss = (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"contrastive model: step {step} of {steps}, loss {float(loss.detach()):.3f}", flush=True)
    return model.eval()


@torch.inference_mode()
def retrieval(
    model: Contrastive, images: np.ndarray, captions: Sequence[str], *, among: int = 100, seed: int = 0
) -> np.ndarray:
    """Return for each image whether its own caption is the nearest of `among`: bool [N].

    The others are drawn from the other captions of these images, each at most once.
    """
    known = sorted(set(captions))
    texts = model.of_texts(torch.from_numpy(encoded(model.tokenizer, known, length=LENGTH)))
    shown = torch.cat([model.of_images(to_model_range(part)) for part in torch.from_numpy(np.array(images)).split(200)])
    cosines, place = (shown @ texts.T).numpy(), {caption: k for k, caption in enumerate(known)}
    random, found = np.random.default_rng(seed), np.empty(len(images), bool)
    for row, caption in enumerate(captions):
        own = place[caption]
        others = random.permutation(np.delete(np.arange(len(known)), own))[: among - 1]
        found[row] = cosines[row, own] > cosines[row, others].max()
    return found
