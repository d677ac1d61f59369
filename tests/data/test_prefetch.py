import pytest
import torch
from multimodal import same, shard, text_only

from mmlight.data.loader import prefetch


@pytest.mark.gpu
def test_batches_arrive_whole_and_in_order(tmp_path):
    shard(tmp_path / "0.tar", range(22))
    data = text_only(tmp_path)
    data.setup("fit")
    batches = [data.train_dataloader().dataset[number].pin_memory() for number in range(5)]
    arrived = []
    for batch in prefetch(iter(batches), torch.device("cuda")):
        torch.cuda._sleep(10_000_000)  # the next copies overtake this
        assert all(tensor.is_cuda for tensor in batch.tensors())
        arrived.append(batch.to("cpu"))
    assert len(arrived) == 5
    assert all(same(one, two) for one, two in zip(batches, arrived, strict=True))
