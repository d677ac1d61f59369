import numpy as np
from tiny_run import COLOURS, make_batch

from mmlight.metrics.retrieved import RetrievalEvaluation
from mmlight.runs.plots.examples import Example
from mmlight.tasks.pictures import ShownSamples
from mmlight.tasks.retrieval_pictures import RetrievalPictures


def test_retrieved_examples_are_the_nearest_with_the_right_frames():
    batch = make_batch(0, size=8, num_samples=8)
    numbers = np.arange(8)
    features = np.zeros((8, 2), dtype=np.float32)
    evaluation = RetrievalEvaluation(
        stage="val",
        samples_S=numbers,
        keys=batch.keys,
        features={"image": features, "text": features},
        items={"image": numbers, "text": numbers},
        captions=batch.captions,
        labels_S=batch.label_B.numpy(),
    )
    kept = {n: {"image": Example(batch.image.pixels_BCHW[n].numpy())} for n in range(8)}
    pictures = RetrievalPictures(evaluation, ShownSamples(kept, num_queries=2, num_found=3))
    similarity = np.full((8, 8), 0.1)
    similarity[0, [5, 4, 0]] = [0.9, 0.8, 0.7]
    first, last = pictures.retrievals(similarity, list(range(8)), "image", "text")
    assert [f.match for f in first.found] == ["other", "class", "own"]
    assert first.found[0].example.caption == f"a {COLOURS[1]} square"
    assert (first.query.pixels_CHW == batch.image.pixels_BCHW[0].numpy()).all()
    assert [f.similarity for f in first.found] == [0.9, 0.8, 0.7]
    assert (last.query.pixels_CHW == batch.image.pixels_BCHW[7].numpy()).all()
