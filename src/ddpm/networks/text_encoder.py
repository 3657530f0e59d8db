"""The text encoder: a transformer over the tokens of a caption, trained with the U-Net."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.networks import kernels
from ddpm.networks.settings import PAD, START


class TextEncoder(nn.Module):
    """tokens [N, L] -> (states [N, L, width], their mean over the text [N, width]).

    Pre-normalised blocks of self-attention and a two-layer network (Vaswani et al. 2017; Xiong et al. 2020), in which
    every token sees all tokens of its text. On a CPU without gradients, a text's result is the same to the bit in any
    batch.
    """

    def __init__(self, *, vocabulary: int, length: int, width: int, layers: int, head_channels: int) -> None:
        super().__init__()
        self.length = length
        self.token = nn.Embedding(vocabulary, width)
        # Standard normal, as torch begins an embedding: with 0.02, as in GPT-2, the order of words is learned later.
        self.position = nn.Embedding(length, width)
        self.layers = nn.ModuleList(_Layer(width, heads=width // head_channels) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def no_text(self, n: int) -> Tensor:
        """Return the tokens of n empty texts: int32 [n, L]."""
        tokens = torch.full((n, self.length), PAD, dtype=torch.int32, device=self.position.weight.device)
        tokens[:, 0] = START
        return tokens

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        is_text = is_text_of(tokens)
        x = self.token(tokens) + self.position.weight
        for layer in self.layers:
            x = layer(x, is_text)
        x = self.norm(x)
        weights = is_text[..., None].to(x.dtype)
        return x, (x * weights).sum(1) / weights.sum(1)


class _Layer(nn.Module):
    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = TextAttention(width, width, heads=heads)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, is_text: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, is_text)
        return x + _linear(F.gelu(_linear(self.norm2(x), self.wide)), self.narrow)


class TextAttention(nn.Module):
    """Multi-head attention of queries x [N, M, C] to the states [N, L, width] of a text: [N, M, C].

    Vaswani et al. 2017, Sec. 3.2.2; as cross-attention Rombach et al. 2022, Sec. 3.3.
    """

    def __init__(self, channels: int, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(width, 2 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, states: Tensor, is_text: Tensor) -> Tensor:
        q, (k, v) = _linear(x, self.q), _linear(states, self.kv).chunk(2, dim=-1)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2).contiguous() for each in (q, k, v))
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=is_text[:, None, None, :])
        return _linear(h.transpose(1, 2).flatten(2), self.proj)


def is_text_of(tokens: Tensor) -> Tensor:
    """Return which tokens [N, L] belong to the text: bool [N, L]."""
    return tokens != PAD


def _linear(x: Tensor, layer: nn.Module) -> Tensor:
    """Return layer(x) for x [N, M, C], with the bits of `kernels.linear`."""
    return kernels.linear(x.flatten(0, 1), layer).unflatten(0, x.shape[:2])
