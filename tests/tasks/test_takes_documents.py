"""Tasks over whole texts refuse those that come packed or in windows, before training."""

from types import SimpleNamespace

import pytest
import tiny

from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.text.tokenizer import ByteTokenizer


@pytest.mark.parametrize("documents", ["packed", "windows"])
def test_a_contrastive_task_refuses_parts_of_texts(documents):
    task = tiny.Contrastive(towers=tiny.towers(), embed_dim=8)
    text = TextSettings(ByteTokenizer(), max_tokens=8, documents=documents)
    task.data = SimpleNamespace(text=text)
    with pytest.raises(UserError, match=f"documents: {documents} is for language models; Contr"):
        task.configure_model()
