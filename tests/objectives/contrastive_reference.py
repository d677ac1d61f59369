"""Contrastive losses as slow loops over samples, in float64; and batches to try them on."""

import math

import torch

from mmlight.batch import Audio, Batch, Images, Text


def make_batch(*, present, valid=None, caption=None, label=None, rows=slice(None)) -> Batch:
    """Return a batch that holds masks and ids (the towers of these tests need nothing else)."""
    masks = {m: torch.tensor(p)[rows] for m, p in present.items()}
    size = len(next(iter(masks.values())))
    valid_B = torch.ones(size, dtype=torch.bool) if valid is None else torch.tensor(valid)[rows]
    text = None
    if "text" in masks:
        ids = torch.arange(1000)[rows] if caption is None else torch.tensor(caption)[rows]
        text = Text(
            token_ids_NL=torch.zeros(size, 1, dtype=torch.int64),
            mask_NL=torch.ones(size, 1, dtype=torch.bool),
            present_N=masks["text"],
            item_N=torch.arange(size),
            caption_id_N=ids[:size],
        )
    return Batch(
        index_B=torch.arange(size),
        keys=[f"shard/{i}" for i in range(size)],
        epoch=0,
        step=0,
        valid_B=valid_B,
        image=Images(torch.zeros(size, 3, 1, 1, dtype=torch.uint8), masks["image"])
        if "image" in masks
        else None,
        text=text,
        audio=Audio(torch.zeros(size, 1), torch.ones(size, dtype=torch.int64), masks["audio"])
        if "audio" in masks
        else None,
        label_B=None if label is None else torch.tensor(label)[rows],
    )


def valid_rows(pair, present, valid):
    return [
        i
        for i in range(len(valid))
        if valid[i] and present[pair.first][i] and present[pair.second][i]
    ]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (
        sum(x * x for x in a).sqrt() * sum(y * y for y in b).sqrt()
    )


def weighted(objective, loss_of_pair):
    total = sum(p.weight * loss_of_pair(i, p) for i, p in enumerate(objective.pairs))
    return total / sum(p.weight for p in objective.pairs)


def slow_clip(objective, features, present, valid, same):
    """Mean over rows and both directions of the mean over positives of -log softmax."""

    def loss_of_pair(number, pair):
        rows = valid_rows(pair, present, valid)
        scale = objective.log_scale[number].exp()
        losses = []
        for a, b in ((pair.first, pair.second), (pair.second, pair.first)):
            for i in rows:
                logits = {j: scale * cosine(features[a][i], features[b][j]) for j in rows}
                log_sum = torch.log(sum(torch.exp(v) for v in logits.values()))
                own = [log_sum - logits[j] for j in rows if same(i, j)]
                losses.append(sum(own) / len(own))
        return sum(losses) / len(losses) if losses else 0.0 * scale

    return weighted(objective, loss_of_pair)


def slow_siglip(objective, features, present, valid, same):
    """Sum over all pairs of samples of -log sigmoid, divided by the number of samples."""

    def loss_of_pair(number, pair):
        rows = valid_rows(pair, present, valid)
        scale, bias = objective.log_scale[number].exp(), objective.bias[number]
        losses = []
        for i in rows:
            for j in rows:
                logit = scale * cosine(features[pair.first][i], features[pair.second][j]) + bias
                sign = 1.0 if same(i, j) else -1.0
                losses.append(torch.log1p(torch.exp(-sign * logit)))
        return sum(losses) / len(rows) if losses else 0.0 * (scale + bias)

    return weighted(objective, loss_of_pair)


def sample_features(modalities, size, *, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        m: (torch.randn(size, dim, generator=generator, dtype=torch.float64) * math.sqrt(dim))
        for m in modalities
    }
