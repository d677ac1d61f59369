import pytest
import torch
from safetensors.torch import save_file

from mmlight.errors import UserError
from mmlight.published.weights import read_weights

TENSORS = {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor([1, 2])}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ending", ["safetensors", "bin", "pt"])
def test_floats_become_float32_and_whole_numbers_stay(tmp_path, ending, dtype):
    path = tmp_path / f"model.{ending}"
    tensors = TENSORS | {"a": TENSORS["a"].to(dtype)}
    if ending == "safetensors":
        save_file(tensors, path)
    else:
        torch.save({"epoch": 3, "state_dict": tensors} if ending == "pt" else tensors, path)
    found = read_weights(path, key="from")
    assert {name: t.dtype for name, t in found.items()} == {"a": torch.float32, "n": torch.int64}
    assert torch.equal(found["a"], TENSORS["a"])


class Bomb:
    def __reduce__(self):
        return (print, ("boom",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": Bomb()}, "holds more than tensors and plain values"),
        ({"a": torch.zeros(1), "b": "text"}, "no state dict"),
        ([torch.zeros(1)], "no state dict"),
    ],
)
def test_what_is_no_state_dict_is_refused_and_not_run(tmp_path, capsys, content, message):
    path = tmp_path / "pytorch_model.bin"
    torch.save(content, path)
    with pytest.raises(UserError, match=f"from: .*pytorch_model.bin.*{message}"):
        read_weights(path, key="from")
    assert "boom" not in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_damaged_file_is_refused(tmp_path, ending):
    path = tmp_path / f"model.{ending}"
    if ending == "safetensors":
        save_file(TENSORS, path)
    else:
        torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="damaged or cut short"):
        read_weights(path, key="from")
    with pytest.raises(UserError, match="damaged or cut short"):
        read_weights(tmp_path / f"absent.{ending}", key="from")
