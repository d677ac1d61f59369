"""Collectives: on three processes against what one process computes, and on a lone process."""

import pytest
import torch
from ranks import run_ranks

from mmlight import comm

W = 3


def _mine() -> torch.Tensor:
    return torch.arange(6.0, dtype=torch.float64).view(2, 3) + 10 * comm.rank()


def _everything():
    rank = comm.rank()
    x = _mine().requires_grad_()
    gathered = comm.gather_with_grad(x)
    # Each rank weighs the rows of all ranks by something of its own.
    (gathered * (1 + rank) * torch.arange(6.0)[:, None]).sum().backward()

    y = torch.full((2,), float(rank + 1), requires_grad=True)
    total = comm.sum_with_grad(y)
    (total * torch.tensor([2.0, 3.0])).sum().backward()

    half = torch.ones(4, 2, dtype=torch.bfloat16, requires_grad=True)
    comm.gather_with_grad(half).sum().backward()

    shifted = comm.shift([torch.full((2,), rank), torch.full((1, 2), 0.5 + rank)])

    own = torch.tensor([rank])
    summed = comm.all_reduce_sum(own)
    return {
        "rank": rank,
        "world_size": comm.world_size(),
        "gathered": gathered.detach(),
        "gathered_grad": x.grad,
        "total": total.detach(),
        "total_grad": y.grad,
        "half_grad": half.grad,
        "bool": comm.gather(torch.tensor([rank == 1])),
        "strided": comm.gather(_mine().T),
        "variable": comm.gather_variable(torch.full((rank, 2), rank)),
        "nothing": comm.gather_variable(torch.zeros(0, 2)),
        "objects": comm.gather_objects({"rank": rank, "text": "é" * rank}),
        "string": comm.broadcast_string(f"from {rank}, ü"),
        "shifted": shifted,
        "sum": summed,
        "own": own,
        "max": comm.all_reduce_max(torch.tensor([rank, -rank])),
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run_ranks(_everything, world_size=W, folder=tmp_path_factory.mktemp("comm"))


def test_every_rank_knows_its_number(results):
    assert [r["rank"] for r in results] == [0, 1, 2]
    assert all(r["world_size"] == W for r in results)


def test_gather_concatenates_in_the_order_of_ranks(results):
    rows = torch.arange(6.0, dtype=torch.float64).view(2, 3)
    expected = torch.cat([rows + 10 * i for i in range(W)])
    for r in results:
        assert torch.equal(r["gathered"], expected)
        assert r["bool"].tolist() == [False, True, False]
        assert torch.equal(r["strided"], torch.cat([(rows + 10 * i).T for i in range(W)]))


def test_gather_sums_gradients_of_all_ranks_into_their_rows(results):
    for rank, r in enumerate(results):
        places = torch.tensor([2.0 * rank, 2.0 * rank + 1], dtype=torch.float64)
        expected = (places * (1 + 2 + 3))[:, None].expand(2, 3)
        assert torch.equal(r["gathered_grad"], expected)


def test_half_precision_gradients_keep_their_dtype(results):
    for r in results:
        assert r["half_grad"].dtype == torch.bfloat16
        assert torch.equal(r["half_grad"], torch.full((4, 2), 3.0, dtype=torch.bfloat16))


def test_sum_with_grad_gives_the_gradient_that_an_average_needs(results):
    for r in results:
        assert r["total"].tolist() == [6.0, 6.0]
        assert r["total_grad"].tolist() == [2.0 * W, 3.0 * W]


def test_gather_variable_takes_ranks_without_rows(results):
    for r in results:
        assert r["variable"].tolist() == [[1, 1], [2, 2], [2, 2]]
        assert r["nothing"].shape == (0, 2)


def test_objects_and_strings_arrive(results):
    for r in results:
        assert r["objects"] == [{"rank": i, "text": "é" * i} for i in range(W)]
        assert r["string"] == "from 0, ü"


def test_reductions_leave_their_input_alone(results):
    for rank, r in enumerate(results):
        assert r["sum"].tolist() == [3]
        assert r["own"].tolist() == [rank]
        assert r["max"].tolist() == [2, 0]


def test_shift_brings_what_the_rank_before_has(results):
    for rank, r in enumerate(results):
        before = (rank - 1) % W
        assert r["shifted"][0].tolist() == [before, before]
        assert r["shifted"][1].tolist() == [[0.5 + before] * 2]


def test_a_lone_process_gets_its_own():
    x = torch.randn(2, 3, requires_grad=True)
    assert (comm.rank(), comm.world_size(), comm.is_distributed()) == (0, 1, False)
    assert comm.gather_with_grad(x) is x
    assert comm.sum_with_grad(x) is x
    for function in (comm.gather, comm.gather_variable, comm.all_reduce_sum, comm.all_reduce_max):
        assert torch.equal(function(x), x)
        assert not function(x).requires_grad
    assert comm.all_reduce_sum(x).data_ptr() != x.data_ptr()
    assert torch.equal(comm.shift([x])[0], x)
    assert comm.gather_objects("a") == ["a"]
    assert comm.broadcast_string("a") == "a"
    comm.barrier()
