"""Evaluates models on the sets of a suite: what is missing is computed, all else read again."""

from collections.abc import Callable, Sequence

import torch
from safetensors.torch import save
from torch import Tensor

from mmlight import comm
from mmlight.errors import UserError
from mmlight.files import write_bytes
from mmlight.metrics.zero_shot import classifier_weights
from mmlight.suites.classify import few_shot, knn, linear_probe, multi_label, zero_shot
from mmlight.suites.features import Features, embed, load_features, read_tensors
from mmlight.suites.job import How, Job, Prompts
from mmlight.suites.matching import pairs, retrieval
from mmlight.suites.results import Result, read_result, write_result
from mmlight.suites.scored import Scored, Scoring
from mmlight.suites.suite import PROMPTED
from mmlight.terminal import note

_SCORE: dict[str, Callable[..., Scored]] = {
    "zero_shot": lambda on, settings: zero_shot(on),
    "multi_label": lambda on, settings: multi_label(on),
    "retrieval": retrieval,
    "linear_probe": linear_probe,
    "knn": knn,
    "few_shot": few_shot,
    "pairs": pairs,
}


def compute(jobs: Sequence[Job], how: How) -> None:
    """Compute all features that are not kept yet; every rank calls it.

    Raises:
        UserError: samples that are not what a set says, or a model that cannot be built.
    """
    for place, job in enumerate(jobs):
        # As rank 0 sees it: every rank must embed the same.
        if comm.gather_objects(_is_scored(job, how))[0]:
            continue
        for part, about in job.parts.items():
            embed(
                about,
                job.model,
                job.pieces[part],
                device=how.device,
                workers=how.workers,
                batch_size=how.batch_size,
            )
        for prompts in job.prompts.values():
            if comm.rank() == 0 and not prompts.path.is_file():
                weights_KD = _embed_prompts(job, prompts, how)
                write_bytes(prompts.path, save({"weight": weights_KD.cpu()}))
        if all(job.model is not other.model for other in jobs[place + 1 :]):
            job.model.release()
    comm.barrier()


def _is_scored(job: Job, how: How) -> bool:
    return all(read_result(job, task, how) is not None for task in job.tasks)


@torch.inference_mode()
def _embed_prompts(job: Job, prompts: Prompts, how: How) -> Tensor:
    embedder = job.model.build(how.device)
    if not job.model.has_joint_space:
        raise UserError(
            f"{job.model.name} on {job.where}: a {type(embedder.task).__name__} task has no joint "
            f"space; {', '.join(sorted(PROMPTED & job.tasks.keys()))} has no meaning for it"
        )
    names = list(job.set.class_names or ())
    return classifier_weights(embedder.texts, names, prompts.templates)


def score(jobs: Sequence[Job], how: How) -> list[Result]:
    """Return all results, of which those that are kept are read; one process calls it.

    Raises:
        UserError: a task that has nothing to score.
    """
    results = []
    for job in jobs:
        features: dict[str, Features] = {}
        for task, settings in job.tasks.items():
            kept = read_result(job, task, how)
            if kept is not None:
                results.append(kept)
                continue
            if not features:
                features = {
                    part: load_features(about, job.pieces[part])
                    for part, about in job.parts.items()
                }
                bad = sum(f.num_bad for f in features.values())
                if bad:
                    note(f"{job.model.name}: {job.where}: {bad:,} samples cannot be read; left out")
            try:
                found = _SCORE[task](_scoring(job, task, features), settings)
            except UserError as error:
                raise UserError(f"{job.where}: {error}") from error
            test = features["test"]
            results.append(
                Result(
                    *(job.model.name, job.name, task, len(test), test.num_bad),
                    scores=found.scores,
                    details=found.details,
                )
            )
            write_result(results[-1], job, how)
    return results


def _scoring(job: Job, task: str, features: dict[str, Features]) -> Scoring:
    assert job.set.modality is not None
    weights_KD = None
    if task in job.prompts:
        weights_KD = read_tensors(job.prompts[task].path)["weight"]
    return Scoring(
        features=features,
        modality=job.set.modality,
        class_names=tuple(job.set.class_names or ()),
        seed=job.suite.seed,
        draws=job.suite.draws,
        weights_KD=weights_KD,
    )
