"""The text encoder and cross-attention give what torch's own modules give; a hidden caption is no caption."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from ddpm.networks.blocks import CrossAttention, Text, group_norm
from ddpm.networks.settings import PAD, START
from ddpm.networks.settings import Text as TextSettings
from ddpm.networks.text_encoder import TextEncoder, is_text_of
from ddpm.networks.unet import UNet
from ddpm.training.decay import parameter_groups

WIDTH, HEADS, LENGTH = 32, 4, 10


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def tokens(*lengths: int) -> Tensor:
    rows = torch.full((len(lengths), LENGTH), PAD, dtype=torch.int32)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = torch.randint(2, 50, (length,))
        row[0] = START
    return rows


def encoder() -> TextEncoder:
    return TextEncoder(vocabulary=50, length=LENGTH, width=WIDTH, layers=2, head_channels=WIDTH // HEADS).eval()


def test_the_encoder_is_torch_s_transformer() -> None:
    ours, rows = encoder(), tokens(3, 10, 1)
    theirs = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True),
        2,
        norm=ours.norm,
        enable_nested_tensor=False,
    ).eval()
    for own, layer in zip(ours.layers, theirs.layers, strict=True):
        attention = own.attention
        layer.self_attn.in_proj_weight.data = torch.cat([attention.q.weight, attention.kv.weight]).data
        layer.self_attn.in_proj_bias.data = torch.cat([attention.q.bias, attention.kv.bias]).data
        layer.self_attn.out_proj.load_state_dict(attention.proj.state_dict())
        for name, module in (
            ("linear1", own.wide),
            ("linear2", own.narrow),
            ("norm1", own.norm1),
            ("norm2", own.norm2),
        ):
            getattr(layer, name).load_state_dict(module.state_dict())
    states, mean = ours(rows)
    expected = theirs(ours.token(rows) + ours.position.weight, src_key_padding_mask=rows == PAD)
    for n, (length, own, other) in enumerate(zip((3, 10, 1), states, expected, strict=True)):
        torch.testing.assert_close(own[:length], other[:length])
        torch.testing.assert_close(mean[n], other[:length].mean(0))


def test_cross_attention_is_torch_s_multihead_attention() -> None:
    layer = CrossAttention(16, WIDTH, heads=2, norm=lambda c: group_norm(c, groups=None, eps=1e-5))
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, rows, states = torch.randn(2, 16, 3, 5), tokens(4, 9), torch.randn(2, LENGTH, WIDTH)
    inner = layer.attention
    theirs = nn.MultiheadAttention(16, 2, kdim=WIDTH, vdim=WIDTH, batch_first=True)
    theirs.q_proj_weight.data = inner.q.weight.data
    theirs.k_proj_weight.data, theirs.v_proj_weight.data = inner.kv.weight.data.chunk(2)
    theirs.in_proj_bias.data = torch.cat([inner.q.bias, inner.kv.bias]).data
    theirs.out_proj.load_state_dict(inner.proj.state_dict())
    queries = layer.norm(x).flatten(2).transpose(1, 2)
    expected, _ = theirs(queries, states, states, key_padding_mask=rows == PAD)
    found = layer(x, Text(torch.empty(0), states, is_text_of(rows)))
    torch.testing.assert_close(found, x + expected.transpose(1, 2).view_as(x))


def test_what_stands_after_a_text_changes_nothing() -> None:
    ours, rows = encoder(), tokens(4)
    states, mean = ours(rows)
    ours.token.weight.data[PAD] = 7.0
    ours.position.weight.data[4:] = 3.0
    again, same_mean = ours(rows)
    torch.testing.assert_close(again[:, :4], states[:, :4])
    torch.testing.assert_close(same_mean, mean)


def unet() -> UNet:
    text = TextSettings(vocabulary=300, length=LENGTH, width=WIDTH, layers=1, head_channels=8, examples=())
    network = UNet(
        channels=1,
        size=8,
        classes=0,
        width=16,
        multipliers=(1, 2),
        blocks=1,
        attention=(4,),
        head_channels=16,
        dropout=0.0,
        text=text,
        vocabulary=50,
    )
    for parameter in network.parameters():
        if parameter.count_nonzero() == 0:  # the layers that begin by adding nothing
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


@torch.inference_mode()
def test_an_image_has_the_same_bits_in_every_batch() -> None:
    network, x, t, rows = unet(), torch.randn(7, 1, 8, 8), torch.rand(7), tokens(1, 2, 3, 5, 8, 9, 10)
    whole = network(x, t, rows)
    for n in (1, 2, 3):
        parts = [network(x[k : k + n], t[k : k + n], rows[k : k + n]) for k in range(0, 7, n)]
        assert torch.equal(torch.cat(parts), whole)
    assert not torch.allclose(network(x, t, rows.roll(1, 0)), whole), "the network reads its text"


def test_a_hidden_caption_is_no_caption() -> None:
    network, x, t, rows = unet(), torch.randn(3, 1, 8, 8), torch.rand(3), tokens(3, 5, 10)
    hidden = network.hide(rows, torch.tensor([True, False, True]))
    assert torch.equal(hidden[1], rows[1])
    found, without, given = network(x, t, hidden), network(x, t), network(x, t, rows)
    torch.testing.assert_close(found[::2], without[::2])
    torch.testing.assert_close(found[1], given[1])


def test_an_untrained_block_adds_nothing_for_a_text() -> None:
    layer = CrossAttention(16, WIDTH, heads=2, norm=lambda c: group_norm(c, groups=None, eps=1e-5))
    x = torch.randn(2, 16, 3, 3)
    assert torch.equal(layer(x, Text(torch.empty(0), torch.randn(2, LENGTH, WIDTH), is_text_of(tokens(3, 5)))), x)


def test_the_tables_of_tokens_and_places_are_embeddings_to_every_optimizer() -> None:
    encoder = TextEncoder(vocabulary=300, length=6, width=16, layers=1, head_channels=8)
    decaying, others = (group["params"] for group in parameter_groups(encoder))
    apart = {id(encoder.token.weight), id(encoder.position.weight)}
    assert apart <= {id(p) for p in others}
    assert not apart & {id(p) for p in decaying}
