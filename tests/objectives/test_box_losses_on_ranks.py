"""One process with all images against two with their shares: value and gradients."""

import torch
from box_cases import CANVAS, dense_outputs, query_outputs, some_boxes
from ranks import run_ranks

from mmlight import comm
from mmlight.objectives.box_match import BoxMatchLoss
from mmlight.objectives.dense_boxes import DenseBoxLoss

COUNTS = (5, 2, 0, 3)


def _rows(value, rows):
    if isinstance(value, torch.Tensor) and len(value) == len(COUNTS):
        return value[rows]
    return value


def _case() -> dict[str, torch.Tensor]:
    share = len(COUNTS) // comm.world_size()
    rows = slice(comm.rank() * share, (comm.rank() + 1) * share)
    whole = some_boxes(*COUNTS)
    boxes = type(whole)(**{k: v[rows] for k, v in vars(whole).items()})
    dense, query = dense_outputs(len(COUNTS)), query_outputs(whole, groups=2)
    leaves = [dense.logit_BAK, dense.xyxy_BA4, dense.quality_BA]
    leaves += [t for layer in [*query.layers, *query.noised.layers] for t in layer]
    part = type(dense)(**{k: _rows(v, rows) for k, v in vars(dense).items()})
    first = DenseBoxLoss()(part, boxes, counted_B=boxes.present_B, canvas=CANVAS)
    query.layers = [(a[rows], b[rows]) for a, b in query.layers]
    query.noised.layers = [(a[rows], b[rows]) for a, b in query.noised.layers]
    query.noised.pairs = query.noised.pairs[rows]
    second = BoxMatchLoss()(query, boxes, counted_B=boxes.present_B, canvas=CANVAS)
    (first.value + second.value).backward()
    out = {"dense": first.value.detach(), "query": second.value.detach()}
    for number, leaf in enumerate(leaves):
        grad = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
        # DDP averages over ranks
        out[str(number)] = comm.all_reduce_sum(grad) / comm.world_size()
    return out


def test_ranks_share_one_loss(tmp_path):
    alone = _case()
    for shared in run_ranks(_case, world_size=2, folder=tmp_path):
        for name, value in alone.items():
            assert torch.allclose(shared[name], value, rtol=1e-5, atol=1e-7), name
