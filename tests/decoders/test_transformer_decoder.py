"""The decoder of our own: what each place sees, with and without a cache, against float64."""

import pytest
import torch

from mmlight.batch import Text
from mmlight.decoders.decoder import Memory, masked_places, packed_places
from mmlight.decoders.transformer_decoder import TransformerDecoder
from mmlight.errors import UserError


def make(**settings):
    torch.manual_seed(0)
    sizes = {"vocab_size": 23, "dim": 16, "num_layers": 3, "num_heads": 2}
    decoder = TransformerDecoder(**sizes | {"max_tokens": 12} | settings).double().eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder


def ids(*shape, seed=0):
    return torch.randint(1, 23, shape, generator=torch.Generator().manual_seed(seed))


def a_memory(size, *, length=5, dim=6):
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(size, length, dtype=torch.bool)
    mask[:, -2:] = False
    return Memory(torch.randn(size, length, dim, generator=generator).double(), mask)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"memory_dim": 6},
        {"memory_dim": 6, "unimodal_layers": 1},
        {"grid": (2, 2), "grid_first": 2},
    ],
)
def test_one_token_at_a_time_gives_what_all_at_once_do(settings):
    decoder = make(**settings)
    memory = a_memory(2) if "memory_dim" in settings else None
    token_ids = ids(2, 7)
    whole = decoder.logits(decoder.decode(decoder.embed(token_ids), memory=memory))
    cache = decoder.new_cache()
    parts = [
        decoder.logits(decoder.decode(decoder.embed(part), memory=memory, cache=cache))
        for part in token_ids.split([3, 1, 2, 1], 1)
    ]
    assert cache.length == 7
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-12)


def test_padding_on_the_left_changes_nothing():
    decoder = make()
    token_ids = ids(1, 5)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), token_ids], 1)
    places = masked_places(torch.arange(8)[None] >= 3, length=8)
    found = decoder.decode(decoder.embed(padded), places=places)[:, 3:]
    torch.testing.assert_close(found, decoder.decode(decoder.embed(token_ids)), rtol=0, atol=1e-12)


def test_texts_that_share_a_row_do_not_see_each_other():
    decoder = make()
    first, second = ids(1, 4), ids(1, 3, seed=5)
    row = torch.cat([first, second, torch.zeros(1, 1, dtype=torch.int64)], 1)
    text = Text(
        token_ids_NL=row,
        mask_NL=torch.tensor([[True] * 7 + [False]]),
        present_N=torch.tensor([True]),
        item_N=torch.tensor([0]),
        caption_id_N=torch.tensor([0]),
        sample_NL=torch.tensor([[0, 0, 0, 0, 1, 1, 1, -1]]),
    )
    found = decoder.decode(decoder.embed(row), places=packed_places(text))
    alone = [decoder.decode(decoder.embed(part))[0] for part in (first, second)]
    torch.testing.assert_close(found[0, :7], torch.cat(alone), rtol=0, atol=1e-12)


def test_rows_of_a_cache_can_be_chosen():
    decoder = make(memory_dim=6)
    memory, token_ids = a_memory(2), ids(2, 4)
    cache = decoder.new_cache()
    decoder.decode(decoder.embed(token_ids[:, :3]), memory=memory, cache=cache)
    rows = torch.tensor([1, 1, 0])
    cache.select(rows)
    chosen = Memory(memory.tokens_NMD[rows], memory.mask_NM[rows])
    found = decoder.decode(decoder.embed(token_ids[rows][:, 3:]), memory=chosen, cache=cache)
    whole = decoder.decode(decoder.embed(token_ids), memory=memory)[rows][:, 3:]
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)


def test_padding_of_the_memory_is_not_looked_at():
    decoder = make(memory_dim=6)
    memory, token_ids = a_memory(2), ids(2, 4)
    other = Memory(memory.tokens_NMD.clone(), memory.mask_NM)
    other.tokens_NMD[:, -2:] = 9.0
    first, second = (decoder.decode(decoder.embed(token_ids), memory=m) for m in (memory, other))
    assert torch.equal(first, second)


def test_blocks_own_every_parameter_and_recomputing_keeps_gradients():
    decoder = make(memory_dim=6)
    owned = [id(p) for block in decoder.blocks() for m in block.modules for p in m.parameters()]
    assert sorted(owned) == sorted(id(p) for p in decoder.parameters())
    assert sum(block.repeated for block in decoder.blocks()) == 3
    gradients = []
    for enabled in (False, True):
        decoder.set_checkpointing(enabled)
        decoder.train().zero_grad()
        for module in decoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout"):
                module.dropout = 0.0
        decoder.decode(decoder.embed(ids(2, 4)), memory=a_memory(2)).square().sum().backward()
        gradients.append([p.grad.clone() for p in decoder.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_heads": 3}, "must divide the width 16"),
        ({"num_layers": 0}, "must be 1 or more"),
        ({"unimodal_layers": 1}, "only with a memory_dim"),
        ({"memory_dim": 4, "unimodal_layers": 3}, "must be below num_layers"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        make(**settings)


def test_a_sequence_beyond_its_positions_is_refused():
    decoder = make()
    with pytest.raises(UserError, match="13 places, but the decoder takes at most 12"):
        decoder.decode(decoder.embed(ids(1, 13)))


def test_cells_of_a_grid_have_the_position_of_their_row_and_column():
    plain, decoder = make(), make(grid=(2, 3), grid_first=2)
    state = decoder.state_dict()
    grid = {name: state.pop(name) for name in list(state) if name.startswith("grid.")}
    rows, columns = grid["grid.rows.weight"], grid["grid.columns.weight"]
    plain.load_state_dict(state)
    embedded = decoder.embed(ids(1, 10))
    added = torch.zeros_like(embedded)
    for cell in range(6):
        added[0, 2 + cell] = rows[cell // 3] + columns[cell % 3]
    expected = plain.decode(embedded + added)
    torch.testing.assert_close(decoder.decode(embedded), expected, rtol=0, atol=1e-12)
    assert {n for n in decoder.no_weight_decay() if n.startswith("grid.")} == set(grid)
    again = TransformerDecoder(**decoder.rebuild_args())
    again.load_state_dict(decoder.state_dict())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"grid_first": 2}, "grid_first: has an effect only with a grid"),
        ({"grid": (0, 3)}, "grid: 0 x 3 from place 0 on"),
    ],
)
def test_a_grid_that_cannot_be_is_one_line(settings, said):
    with pytest.raises(UserError, match=said):
        make(**settings)
