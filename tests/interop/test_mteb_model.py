"""A model of mmlight runs a small MTEB task that lies in memory."""

import io

import cli_data
import numpy as np
import pytest
import torch
from PIL import Image

from mmlight.errors import UserError
from mmlight.interop.embedder import Embedder
from mmlight.interop.mteb_model import MtebModel


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> MtebModel:
    folder = tmp_path_factory.mktemp("mteb")
    data = cli_data.write_data(folder / "data")
    task, task.data = cli_data.build(cli_data.experiment(data, folder / "runs"))
    task.configure_model()
    return MtebModel("runs/tiny/one", embedder=Embedder(task))


def batches():
    samples = [cli_data.make_sample(n) for n in range(6)]
    pictures = [Image.open(io.BytesIO(s["png"])) for s in samples]
    return samples, pictures


def test_features_are_those_of_the_embedder(model):
    samples, pictures = batches()
    texts = [s["txt"].decode() for s in samples]
    found = model.encode([{"text": texts[:4]}, {"text": texts[4:]}], task_metadata=None)
    assert np.allclose(found, model.embedder.texts(texts).numpy(), atol=1e-6)
    assert np.allclose(
        model.encode([{"image": pictures}]), model.embedder.images(pictures).numpy(), atol=1e-6
    )
    wave = np.sin(np.arange(400) / 5).astype(np.float32)
    sound = model.encode([{"audio": [{"array": wave, "sampling_rate": cli_data.RATE_HZ}]}])
    wanted = model.embedder.sounds([(wave, cli_data.RATE_HZ)])
    assert np.allclose(sound, wanted.numpy(), atol=1e-6)


def test_several_kinds_are_one_feature(model):
    samples, pictures = batches()
    texts = [s["txt"].decode() for s in samples]
    both = model.encode([{"text": texts, "image": pictures}])
    mean = model.embedder.texts(texts) + model.embedder.images(pictures)
    assert np.allclose(both, torch.nn.functional.normalize(mean, dim=1).numpy(), atol=1e-6)
    assert np.allclose(np.diag(model.similarity(both, both)), 1, atol=1e-6)
    assert np.allclose(model.similarity_pairwise(both, both), 1, atol=1e-6)


def test_an_unknown_kind_is_refused(model):
    with pytest.raises(UserError, match="video"):
        model.encode([{"video": [1]}])


def test_a_small_task_of_mteb_gives_its_score(model):
    mteb = pytest.importorskip("mteb")
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.classification import AbsTaskClassification
    from mteb.abstasks.task_metadata import TaskMetadata

    class Colours(AbsTaskClassification):
        metadata = TaskMetadata(
            name="ColoursOfMmlight",
            description="Which colour a sentence names.",
            dataset={"path": "in/memory", "revision": "1"},
            type="Classification",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="accuracy",
            bibtex_citation="",
        )
        samples_per_label, n_experiments = 4, 2

        def load_data(self, **_):
            def rows(numbers):
                return Dataset.from_dict(
                    {
                        "text": [cli_data.make_sample(n)["txt"].decode() for n in numbers],
                        "label": [n % 4 for n in numbers],
                    }
                )

            self.dataset = DatasetDict(train=rows(range(40)), test=rows(range(40, 60)))
            self.data_loaded = True

    done = mteb.evaluate(model, Colours(), cache=None, co2_tracker=False, show_progress_bar=False)
    (result,) = done.task_results
    (scores,) = result.scores["test"]
    # Chance is a quarter; the colour's letters are in the sentence.
    assert 0.3 < scores["main_score"] <= 1
    assert done.model_name == "tiny/one"
